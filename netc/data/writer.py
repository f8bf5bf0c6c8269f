"""Writes databases: under a temporary name in the target's folder, renamed when whole."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from typing import Any, Protocol

import lmdb

from netc.data.database import MARKS
from netc.errors import NetcError
from netc.schema.atomic import is_running, sync_folder

log = logging.getLogger(__name__)

LMDB_MAP_BYTES = 64 << 20  # at first; doubled whenever it is full
LMDB_LONGEST_KEY = 511
RECORDS_PER_TRANSACTION = 1000  # as Caffe commits
BYTES_PER_TRANSACTION = 64 << 20


class DatabaseWriter(Protocol):
    """Takes records in any order of keys; they are safe on the disk after `close`."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def close(self) -> None: ...


class LmdbWriter:
    """Writes an LMDB whose map grows as needed."""

    def __init__(self, folder: str) -> None:
        self._map_bytes = LMDB_MAP_BYTES
        # Nobody else knows this folder yet: no lock file, and one sync at the end instead of one a
        # transaction.
        self._env = lmdb.open(folder, map_size=self._map_bytes, lock=False, sync=False)
        self._waiting: list[tuple[bytes, bytes]] = []
        self._waiting_bytes = 0
        self._last_key = b""

    def put(self, key: bytes, value: bytes) -> None:
        # Caffe's keys start with the line number, which keeps them apart when cut.
        self._waiting.append((key[:LMDB_LONGEST_KEY], value))
        self._waiting_bytes += len(value)
        if len(self._waiting) >= RECORDS_PER_TRANSACTION or self._waiting_bytes >= BYTES_PER_TRANSACTION:
            self._commit()

    def _commit(self) -> None:
        while True:
            try:
                last = self._last_key
                with self._env.begin(write=True) as transaction:
                    for key, value in self._waiting:
                        transaction.put(key, value, append=key > last)
                        last = max(last, key)
                break
            except lmdb.MapFullError:
                self._map_bytes *= 2
                log.debug("the LMDB map grows to %d MiB", self._map_bytes >> 20)
                self._env.set_mapsize(self._map_bytes)
        self._last_key = last
        self._waiting = []
        self._waiting_bytes = 0

    def close(self) -> None:
        self._commit()
        self._env.sync(True)
        self._env.close()


class LevelDbWriter:
    """Writes a LevelDB with Caffe's settings, through the optional package plyvel."""

    def __init__(self, folder: str) -> None:
        plyvel = importlib.import_module("plyvel")
        self._db: Any = plyvel.DB(
            folder, create_if_missing=True, block_size=65536, write_buffer_size=256 << 20, max_open_files=100
        )

    def put(self, key: bytes, value: bytes) -> None:
        self._db.put(key, value)

    def close(self) -> None:
        self._db.compact_range()
        self._db.close()


WRITERS: dict[str, type[LmdbWriter] | type[LevelDbWriter]] = {"lmdb": LmdbWriter, "leveldb": LevelDbWriter}


def check_target(folder: str, backend: str, overwrite: bool) -> None:
    """Raises NetcError where a database of this kind cannot be written to `folder`."""
    if backend not in WRITERS:
        raise NetcError("unknown database backend", expected=" or ".join(WRITERS), found=backend)
    _, module, install = MARKS[backend]
    if importlib.util.find_spec(module) is None:
        raise NetcError(f"writing a {backend} needs the Python package {module}", remedy=install)
    if os.path.lexists(folder) and not overwrite:
        raise NetcError(f"{folder} already exists", remedy="remove it, or name another folder")
    parent = os.path.dirname(os.path.abspath(folder))
    if not os.path.isdir(parent):
        raise NetcError(f"there is no folder {parent} for the database", remedy="make it first")


@contextlib.contextmanager
def writing_database(
    folder: str, backend: str = "lmdb", *, overwrite: bool = False
) -> Iterator[DatabaseWriter]:
    """A writer whose database takes the name `folder` when the block ends well, and vanishes when it does
    not.

    Raises NetcError where `folder` exists (unless overwrite) or cannot be written.
    """
    folder = os.path.abspath(folder)
    check_target(folder, backend, overwrite)
    parent, name = os.path.split(folder)
    _remove_stale(parent, name)
    building = os.path.join(parent, f"{_temporary_prefix(name)}{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        os.mkdir(building)
        writer = WRITERS[backend](building)
        yield writer
        writer.close()
        _sync_files(building)
        _put_in_place(building, folder)
        sync_folder(parent)
    except (OSError, lmdb.Error) as error:
        raise NetcError(
            f"writing {folder} failed: {error}", remedy="check the room left on the disk and the permissions"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)  # gone already where it was renamed


def _temporary_prefix(name: str) -> str:
    return f".{name[:100]}.{socket.gethostname()[:40]}-"


def _remove_stale(parent: str, name: str) -> None:
    """Removes what earlier writers of this database left, processes of this machine that were killed."""
    prefix = _temporary_prefix(name)
    for found in os.listdir(parent):
        process = found[len(prefix) :].partition("-")[0]
        if (
            found.startswith(prefix)
            and found.endswith(".tmp")
            and process.isdigit()
            and not is_running(int(process))
        ):
            log.info("removing %s, left by a conversion that was killed", os.path.join(parent, found))
            shutil.rmtree(os.path.join(parent, found), ignore_errors=True)


def _put_in_place(building: str, folder: str) -> None:
    """Renames a finished folder; an old one of that name steps aside first and is then removed."""
    aside = f"{building}.old"
    if os.path.lexists(folder):
        os.rename(folder, aside)
    os.rename(building, folder)
    if os.path.isdir(aside) and not os.path.islink(aside):
        shutil.rmtree(aside, ignore_errors=True)
    elif os.path.lexists(aside):
        os.unlink(aside)


def _sync_files(folder: str) -> None:
    for entry in os.scandir(folder):
        descriptor = os.open(entry.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(folder)
