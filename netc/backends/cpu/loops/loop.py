"""Loops of our own on the CPU: compiled by numba, kept in the user's cache folder, run by an OpenMP team.

A loop is a function of one address, that of a record (a "job") which has all it works on. Every thread of the
team runs it with the same job, and works on its own share. A loop that has been compiled before needs neither
numba nor the module that it stands in, only what its job is (`*_job.py`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from netc.backends.cpu.loops.cache import loop_code
from netc.backends.form import Run

OPENMP = "libgomp.so.1"  # oneDNN's: with one team for both, neither waits for cores that the other keeps busy


class Loop:
    """A compiled loop; whoever runs it keeps it and the job alive."""

    __slots__ = ("_address", "_held", "_start")

    def __init__(self, library: ctypes.CDLL, native: Any) -> None:
        self._held = native
        self._address = ctypes.c_void_p(native.address)
        self._start = library.GOMP_parallel

    @property
    def address(self) -> int:
        """Of its machine code."""
        return self._address.value or 0

    def __call__(self, job: np.ndarray, threads: int) -> None:
        """Runs it on a job in so many threads."""
        self.on(job, threads)()

    def on(self, job: np.ndarray, threads: int) -> Run:
        """The same as one call, all of whose arguments have been made: a microsecond instead of five."""
        arguments = ctypes.c_void_p(job.ctypes.data), ctypes.c_uint(threads), ctypes.c_uint(0)
        return partial(self._start, self._address, *arguments)


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
    """A loop of a module beside this one, taken from the cache folder, or compiled.

    The module has LOOPS (functions by name), SIGNATURE, and OPTIONS for numba (by the same names); it is
    imported only to compile them. Raises ImportError without numba, OSError without OpenMP.
    """
    library = openmp()
    return Loop(library, loop_code(module, name, OPENMP))


class BoundLoop:
    """A loop on a job of its own, one record, in so many threads; holds all that it needs."""

    __slots__ = ("_held", "_run", "job", "loop", "threads")

    def __init__(self, loop: Loop, job: np.ndarray, threads: int, held: Sequence[np.ndarray]) -> None:
        """held: the arrays that the job points at."""
        self.loop, self.job, self.threads = loop, job, threads
        self._held = tuple(held)
        self._run = loop.on(job, threads)

    def __call__(self) -> None:
        self._run()


def bound(
    loop: Loop, job: Any, threads: int, numbers: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> BoundLoop:
    """A run of the loop on a job of this dtype with these numbers and the addresses of these arrays."""
    record = np.zeros(1, job)
    for name, number in numbers.items():
        record[name] = number
    for name, array in arrays.items():
        record[name] = array.ctypes.data
    return BoundLoop(loop, record, threads, tuple(arrays.values()))
