"""Files that appear whole or not at all: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from netc.errors import NetcError

log = logging.getLogger(__name__)

REMEDIES = {
    errno.ENOSPC: "free some disk space, or write to another disk",
    errno.EDQUOT: "free some of your disk quota, or write to another disk",
    errno.EACCES: "check the permissions of the folder",
    errno.EPERM: "check the permissions of the folder",
    errno.EROFS: "write to a disk that is not read-only",
    errno.ENOENT: "make the folder first",
    errno.ENOTDIR: "make the folder first",
    errno.ENAMETOOLONG: "choose a shorter name",
}
STEM_LENGTH = 100

_open_temporaries: set[Path] = set()


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path in the folder of `path`; when the block ends well, its file becomes `path`.

    The temporary name begins with a dot and keeps the suffix. The file and its folder are synced, so that the
    new file survives a power cut; on any failure the temporary file is removed and an older `path` stays. A
    symbolic link is followed. What an earlier, killed writer of the same file left behind is removed. Within
    an outer block of the same file the temporary path that is given is used as it is.
    Raises NetcError where the system refuses: no space, no permission, no such folder.
    """
    target = Path(os.path.realpath(path))
    if target in _open_temporaries:
        yield target
        return
    _refuse_unwritable(target, path)
    _remove_stale(target)
    temporary = _temporary_name(target)
    _open_temporaries.add(temporary)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        _open_temporaries.discard(temporary)
        with suppress(OSError):
            temporary.unlink()


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Makes renames in `folder` durable, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_error(path: str | os.PathLike[str], error: OSError) -> NetcError:
    """The NetcError for a write that the system refused."""
    remedy = REMEDIES.get(error.errno or 0)
    if remedy is None and "errno = 28" in str(error):  # HDF5 puts the system's error into its text
        remedy = REMEDIES[errno.ENOSPC]
    return NetcError(f"cannot write the file: {error.strerror or error}", at=os.fspath(path), remedy=remedy)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_unwritable(target: Path, path: str | os.PathLike[str]) -> None:
    if target.is_dir():
        raise NetcError(
            "cannot write the file: it is a folder", at=os.fspath(path), remedy="name a file in it"
        )
    if target.exists() and not target.is_file():
        raise NetcError("cannot write the file: it is a device or a pipe", at=os.fspath(path))
    if not target.parent.is_dir():
        raise NetcError(
            f"cannot write the file: there is no folder {target.parent}",
            at=os.fspath(path),
            remedy=REMEDIES[errno.ENOENT],
        )


def _temporary_name(target: Path) -> Path:
    return target.with_name(
        f"{_temporary_prefix(target)}{os.getpid()}-{secrets.token_hex(4)}.tmp{target.suffix}"
    )


def _temporary_prefix(target: Path) -> str:
    return f".{target.stem[:STEM_LENGTH]}.{socket.gethostname()[:40]}-"


def _remove_stale(target: Path) -> None:
    """Removes temporary files of this target whose writer, a process of this machine, is gone."""
    prefix, suffix = _temporary_prefix(target), f".tmp{target.suffix}"
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if not (name.startswith(prefix) and name.endswith(suffix)):
                continue
            process = name[len(prefix) :].partition("-")[0]
            if process.isdigit() and not is_running(int(process)):
                log.info("removing %s, left by a writer that was killed", name)
                (target.parent / name).unlink()


def is_running(process: int) -> bool:
    """Whether a process of this machine lives."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
