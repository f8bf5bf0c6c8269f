"""Finding oneDNN's shared library, and checking that it is one that netc can use."""

from __future__ import annotations

import ctypes
import os
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from netc.errors import NetcError

VARIABLE: Final = "NETC_ONEDNN"  # names the library, or says "off"
WHEEL: Final = "onednn-cpu-gomp"
NAME: Final = "libdnnl.so.3"
MAJOR: Final = 3
RUNTIMES: Final = {0: "none", 1: "sequential", 2: "OpenMP", 4: "TBB", 8: "a thread pool"}
OPENMP: Final = 2


class Version(ctypes.Structure):
    """What `dnnl_version` points at."""

    _fields_ = (
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
        ("patch", ctypes.c_int),
        ("hash", ctypes.c_char_p),
        ("cpu_runtime", ctypes.c_uint),
        ("gpu_runtime", ctypes.c_uint),
    )

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


def named_by_user() -> str | None:
    """The library that the environment names; None where it names none. "off" stands for no library at
    all."""
    return os.environ.get(VARIABLE) or None


def places() -> Iterator[str]:
    """Where the library may lie, the wheel's before the system's."""
    try:
        files = metadata.distribution(WHEEL).files or []
        yield from (str(Path(str(file.locate())).resolve()) for file in files if file.name == NAME)
    except metadata.PackageNotFoundError:
        pass
    yield os.path.join(sysconfig.get_path("data"), "lib", NAME)
    yield NAME  # the loader looks where the system keeps its libraries


def load(path: str) -> ctypes.CDLL:
    """The library at this path. Raises NetcError where there is none, or not one that netc can use."""
    try:
        library = ctypes.CDLL(path)
        library.dnnl_version.restype = ctypes.POINTER(Version)
        version: Version = library.dnnl_version().contents
    except (OSError, AttributeError) as error:
        raise NetcError("oneDNN cannot be loaded", at=path, found=str(error), remedy=_remedy()) from None
    if version.major != MAJOR:
        raise NetcError(
            "this version of oneDNN has another interface",
            at=path,
            expected=f"version {MAJOR}",
            found=f"version {version}",
            remedy=_remedy(),
        )
    if version.cpu_runtime != OPENMP:
        raise NetcError(
            "this oneDNN was built for other threads",
            at=path,
            expected=RUNTIMES[OPENMP],
            found=RUNTIMES.get(version.cpu_runtime, version.cpu_runtime),
            remedy=_remedy(),
        )
    return library


def find() -> ctypes.CDLL | None:
    """The library that the environment names, else the first that can be used; None where there is none.

    Raises NetcError where the one that the environment names cannot be used.
    """
    named = named_by_user()
    if named == "off":
        return None
    if named:
        return load(named)
    for place in dict.fromkeys(places()):
        try:
            return load(place)
        except NetcError:
            continue
    return None


def _remedy() -> str:
    return f"pip install {WHEEL}; or {VARIABLE}=<path of {NAME}>, or {VARIABLE}=off to compute without it"
