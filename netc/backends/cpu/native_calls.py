"""Native work: pieces whose functions, addresses and arguments are all known, as records of calls."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from netc.backends.cpu.loops.native_job import WIDTH

Call = tuple[int, ...]  # a record (loops/native_job.py), up to its last number that is not 0


class Native(ABC):
    """A run that consists of native calls."""

    __slots__ = ()

    @abstractmethod
    def __call__(self) -> None:
        """Runs it by itself."""

    @property
    @abstractmethod
    def calls(self) -> list[Call]:
        """What it does, as long as this object lives."""

    def fail(self, place: int, status: int) -> None:  # noqa: B027 -- loops do not fail
        """Raises what is to be raised where the call in this place has ended with this status."""


def address_of(function: Any) -> int:
    """Of the machine code of a foreign function."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def records_of(calls: Sequence[Call]) -> np.ndarray:
    """The records of calls, one a row."""
    return np.array([call + (0,) * (WIDTH - len(call)) for call in calls], np.int64).reshape(-1, WIDTH)
