"""Reads whole files as bytes or text; every way in which that can fail is a NetcError that names the file."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from netc.errors import Location, NetcError

TEXT_LIMIT = 64 << 20
"""A prototxt of more bytes than this is taken for some other file."""


def open_error(path: str | os.PathLike[str], error: OSError) -> NetcError:
    """The NetcError for a file that cannot be opened; for a missing one it names what lies near."""
    name = os.fspath(path)
    if isinstance(error, FileNotFoundError):
        return NetcError("no such file", at=name, remedy=near_names(Path(name)))
    if isinstance(error, IsADirectoryError):
        return NetcError("this is a folder, not a file", at=name, remedy="name a file in it")
    if isinstance(error, PermissionError):
        return NetcError("the file cannot be read", at=name, remedy="check its permissions")
    return NetcError(f"the file cannot be read: {error.strerror or error}", at=name)


@contextmanager
def open_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """The file, open to be read as bytes; what the system refuses in the block becomes a NetcError."""
    try:
        with open(path, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise NetcError("this is a device or a pipe, not a file", at=os.fspath(path))
            yield file
    except OSError as error:
        raise open_error(path, error) from error
    except MemoryError as error:
        raise NetcError("there is not enough memory for the file", at=os.fspath(path)) from error


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """All of a file. Raises NetcError."""
    with open_file(path) as file:
        return file.read()


def read_file_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file. Raises NetcError with line and column for bytes that no text holds."""
    name = os.fspath(path)
    with open_file(path) as file:
        data = file.read(TEXT_LIMIT + 1)
    if len(data) > TEXT_LIMIT:
        raise NetcError(
            "the file is too large for a prototxt",
            at=name,
            expected=f"text of at most {TEXT_LIMIT >> 20} MiB",
            remedy="check that this is a prototxt and not a weights file or a database",
        )
    return decode_text(data, name)


def decode_text(data: bytes, name: str) -> str:
    """`data` as text, a byte order mark dropped. Raises NetcError at the first byte that is not text."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    bad = data.find(b"\0")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = error.start if bad < 0 else min(bad, error.start)
    if bad < 0:
        return text
    line = data.count(b"\n", 0, bad) + 1
    column = bad - (data.rfind(b"\n", 0, bad) + 1) + 1
    raise NetcError(
        f"the file is not text: byte 0x{data[bad]:02x} is not UTF-8"
        if data[bad]
        else "the file is not text: it holds a NUL byte",
        at=Location(name, line, column),
        remedy="check that this is a prototxt and not a weights file; save it as UTF-8",
    )


def near_names(path: Path) -> str | None:
    """What helps where a file is missing: files of like names, or the folder that paths start at."""
    folder = path.parent
    try:
        names = os.listdir(folder)
    except OSError:
        return f"there is no folder {folder}; paths are relative to {os.getcwd()}"
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(str(folder / name) for name in near)}?"
    return None if path.is_absolute() else f"paths are relative to {os.getcwd()}"
