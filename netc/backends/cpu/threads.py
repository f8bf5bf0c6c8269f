"""How many threads oneDNN computes with."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager


def set_threads(count: int) -> None:
    """Lets oneDNN compute with this many threads.

    Primitives keep the number that held when they were made: call it before.
    """
    openmp = _openmp()
    if openmp is not None:
        openmp.omp_set_num_threads(max(1, count))


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it primitives are made for one thread, any thread, rather than for a team."""
    openmp = _openmp()
    before = openmp.omp_get_max_threads() if openmp is not None else 1
    set_threads(1)
    try:
        yield
    finally:
        set_threads(before)


def forbid_changing_teams() -> None:
    """Holds OpenMP to the number of threads it was told.

    oneDNN waits at barriers for every thread that it counted on: it would hang if some never came.
    """
    os.environ.pop("OMP_DYNAMIC", None)
    openmp = _openmp()
    if openmp is not None:
        openmp.omp_set_dynamic(0)


def _openmp() -> ctypes.CDLL | None:
    """GNU's OpenMP, which oneDNN is linked with; None where the machine has none."""
    try:
        return ctypes.CDLL("libgomp.so.1")
    except OSError:
        return None
