"""The threads of NumPy's matrix products, which stand in the way of oneDNN's."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

MAPS: Final = Path("/proc/self/maps")
# How the builds of OpenBLAS that come with NumPy, from PyPI, conda-forge and distributions, call it.
SETTERS: Final = (
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
)


def limit_blas_threads(count: int) -> int:
    """Holds every OpenBLAS in this process to `count` threads; how many there are.

    Where its threads and OpenMP's compute by turns, each set keeps the cores busy that the other waits for.
    """
    found = 0
    for path in _loaded():
        library = ctypes.CDLL(path)  # loaded already: this only finds it
        setter = next((name for name in SETTERS if hasattr(library, name)), None)
        if setter is None:
            log.debug("%s has no function that sets its threads", path)
            continue
        getattr(library, setter)(ctypes.c_int(count))
        found += 1
    return found


def _loaded() -> Iterator[str]:
    """The files of the OpenBLAS libraries in this process; none where the system does not tell."""
    try:
        lines = MAPS.read_text().splitlines()
    except OSError:
        return
    files = dict.fromkeys(line.split(maxsplit=5)[5] for line in lines if line.count("/"))
    yield from (file for file in files if "openblas" in Path(file).name and ".so" in Path(file).name)
