"""Loops of our own on the CPU: compiled by numba, kept in the user's cache folder, run by an OpenMP team.

A loop is a function of one address, that of a record (a "job") which has all it works on. Every thread of the
team runs it with the same job, and works on its own share.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from netc.backends.cuda.cache_folder import cache_folder
from netc.backends.form import Run

OPENMP = "libgomp.so.1"  # oneDNN's: with one team for both, neither waits for cores that the other keeps busy
CACHE = "cpu-loops"
SOURCES = "loop*.py", "*_loops.py"

Loop = Callable[[np.ndarray, int], None]  # runs on a job with a number of threads


@lru_cache(None)
def openmp() -> ctypes.CDLL:
    """GNU's OpenMP. Raises OSError where the machine has none."""
    library = ctypes.CDLL(OPENMP)
    # Of the interface that compilers use: runs a function with an argument in every thread of a team.
    library.GOMP_parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    library.GOMP_parallel.restype = None
    return library


def threads_for(shares: int) -> int:
    """How many threads of the team have something to do."""
    return max(1, min(openmp().omp_get_max_threads(), shares))


@lru_cache(None)
def compiled(module: str, name: str) -> Loop:
    """A loop of a module beside this one, compiled, or taken from the cache folder.

    The module has LOOPS (functions by name), SIGNATURE, and OPTIONS for numba (by the same names). Raises
    ImportError without numba, OSError without OpenMP.
    """
    library = openmp()
    import llvmlite.binding
    import numba

    llvmlite.binding.load_library_permanently(OPENMP)  # the loops ask it which thread they run in
    loops = import_module(f"netc.backends.cpu.{module}")
    folder = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = folder or str(cache_folder(f"{CACHE}-{_version()}"))
    try:
        options = loops.OPTIONS[name]
        native = numba.cfunc(loops.SIGNATURE, cache=True, **options)(loops.LOOPS[name])
    finally:
        numba.config.CACHE_DIR = folder

    def run(job: np.ndarray, threads: int) -> None:
        library.GOMP_parallel(native.address, job.ctypes.data, threads, 0)

    return run


def bound(
    loop: Loop, job: Any, threads: int, numbers: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> Run:
    """A run of the loop on a record of this dtype with these numbers and the addresses of these arrays, which
    the caller keeps alive."""
    record = np.zeros(1, job)
    for name, number in numbers.items():
        record[name] = number
    for name, array in arrays.items():
        record[name] = array.ctypes.data
    return partial(loop, record, threads)


@lru_cache(None)
def _version() -> str:
    """Of the loops' sources: numba looks only at the file of the loop itself, not at what it calls."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in folder.glob(pattern)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
