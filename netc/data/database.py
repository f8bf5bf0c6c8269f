"""What a database folder is: which kind, whether it is whole, and what to say where it is not."""

from __future__ import annotations

import difflib
import importlib.util
import logging
import os
import struct
from dataclasses import dataclass

from netc.data.source import Origin

log = logging.getLogger(__name__)

SOURCE_FIELD = ("data_param", "source")

# LMDB's meta page: a page header, then magic, version, address, map size, two table records, last page,
# transaction.
PAGE_HEADER = 16
META = struct.Struct("<II8xQ48s48sQQ")
LMDB_MAGIC = 0xBEEFC0DE
PAGE_SIZES = tuple(1 << bits for bits in range(9, 17))

# kind: the files it is known by, the module that reads it, and how to get that.
MARKS = {
    "lmdb": (("data.mdb",), "lmdb", "pip install lmdb"),
    "leveldb": (("CURRENT",), "plyvel", "pip install netc[leveldb]"),
}


@dataclass(frozen=True)
class Database:
    """A folder that holds a whole database of a kind that can be read here."""

    folder: str
    kind: str  # "lmdb" or "leveldb"


def find_database(folder: str, named: str | None, origin: Origin) -> Database:
    """The database in `folder`, checked as far as can be done without reading it.

    named: the kind that the prototxt names; what the folder really is decides. Raises NetcError where it is
    missing, is no database, is shorter than it says, or cannot be read without a package that is not
    installed.
    """
    if not folder:
        raise origin.error("no database is named", *SOURCE_FIELD, remedy="set data_param { source: FOLDER }")
    if not os.path.isdir(folder):
        raise _missing(folder, origin)
    kind = next((kind for kind, (files, _, _) in MARKS.items() if _has(folder, files)), None)
    if kind is None:
        raise origin.error(
            f"{folder} is neither an LMDB nor a LevelDB",
            *SOURCE_FIELD,
            expected="a folder with data.mdb (LMDB) or CURRENT (LevelDB)",
            found=", ".join(sorted(os.listdir(folder))[:5]) or "an empty folder",
            remedy="make one with netc convert_imageset",
        )
    if named and named != kind:
        log.warning("%s is %s, though the prototxt says backend: %s", folder, kind.upper(), named.upper())
    _, module, install = MARKS[kind]
    if importlib.util.find_spec(module) is None:
        raise origin.error(
            f"{folder} is a {kind} database, and the Python package {module} is not installed",
            *SOURCE_FIELD,
            remedy=f"{install}, or make an LMDB with netc convert_imageset -backend lmdb",
        )
    if kind == "lmdb":
        _check_size(os.path.join(folder, "data.mdb"), origin)
    return Database(folder, kind)


def _has(folder: str, files: tuple[str, ...]) -> bool:
    return all(os.path.isfile(os.path.join(folder, name)) for name in files)


def _missing(folder: str, origin: Origin) -> Exception:
    if os.path.exists(folder):
        return origin.error(
            f"{folder} is a file; a database is a folder",
            *SOURCE_FIELD,
            remedy="name the folder of the database",
        )
    parent, name = os.path.split(os.path.normpath(folder))
    near = []
    if os.path.isdir(parent or "."):
        siblings = [entry.name for entry in os.scandir(parent or ".") if entry.is_dir()]
        near = [
            os.path.join(parent, found) for found in difflib.get_close_matches(name, siblings, cutoff=0.5)
        ]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return origin.error(
        f"there is no database {folder}",
        *SOURCE_FIELD,
        found=f"no such folder (looked from {os.getcwd()})",
        remedy=f"{hint}make one with netc convert_imageset",
    )


def _check_size(path: str, origin: Origin) -> None:
    """Raises NetcError where the file ends before the last page that its newest meta page counts."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            needed = _bytes_needed(file.read(PAGE_SIZES[-1] + PAGE_HEADER + META.size))
    except OSError as error:
        raise origin.error(f"{path} cannot be read: {error.strerror}", *SOURCE_FIELD) from error
    if needed is None or needed > size:
        raise origin.error(
            f"{path} is cut short" if needed else f"{path} is not an LMDB file, or is damaged",
            *SOURCE_FIELD,
            expected=f"{needed} bytes" if needed else "a valid LMDB meta page",
            found=f"{size} bytes",
            remedy="copy the database again, or make it again with netc convert_imageset",
        )


def _bytes_needed(head: bytes) -> int | None:
    """The size that an LMDB file must have at least, from its two meta pages; None where neither is valid."""
    newest: tuple[int, int] | None = None  # (transaction, bytes)
    second = 0
    for offset in (0, *PAGE_SIZES):
        if (newest and offset != second) or offset + PAGE_HEADER + META.size > len(head):
            continue
        magic, version, _, free_table, _, last_page, transaction = META.unpack_from(
            head, offset + PAGE_HEADER
        )
        (page_size,) = struct.unpack_from("<I", free_table)
        if magic != LMDB_MAGIC or version != 1 or page_size not in PAGE_SIZES:
            continue
        second = second or page_size
        newest = max(newest or (-1, 0), (transaction, (last_page + 1) * page_size))
    return newest[1] if newest else None
