"""Device memory as arrays: which memory an array lies in, and memory that is freed with its last array."""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np

from netc.backends.cuda.device.memory import Memory
from netc.errors import NetcError


def is_channels_last(array: Any) -> bool:
    """Whether an array of shape (N, C, H, W) lies as (N, H, W, C), without gaps."""
    return array.ndim == 4 and bool(array.transpose(0, 2, 3, 1).flags.c_contiguous)


def is_turned(array: Any) -> bool:
    """Whether an array lies as (N, H, W, C) in memory, and not in the order of its shape as well."""
    return not array.flags.c_contiguous and is_channels_last(array)


def in_memory_order(array: Any) -> Any:
    """A view of an array without gaps whose shape follows its memory."""
    return array.transpose(0, 2, 3, 1) if is_turned(array) else array


def empty_like(array: Any) -> np.ndarray:
    """An array on the host that lies as an array of the device does."""
    if not is_turned(array):
        return np.empty(array.shape, array.dtype)
    n, c, h, w = array.shape
    return np.empty((n, h, w, c), array.dtype).transpose(0, 3, 1, 2)


class Owner:
    """What every array over one allocation keeps alive."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """The memory as bytes, for a device whose memory is the host's."""
        return {
            "data": (self.memory.address, False),
            "shape": (self.memory.nbytes,),
            "typestr": "|u1",
            "version": 3,
        }


class ArrayTable:
    """The allocations of a device that arrays lie in, by address."""

    def __init__(self, free: Callable[[Memory], None]) -> None:
        self._free = free
        self._memories: dict[int, Memory] = {}
        self._starts: list[int] = []
        self._unused: list[Memory] = []

    def add(self, memory: Memory) -> Owner:
        """Notes an allocation; it is freed some time after nothing holds its owner any more."""
        self.free_unused()
        self._memories[memory.address] = memory
        self._starts = sorted(self._memories)
        owner = Owner(memory)
        weakref.finalize(owner, self._forget, memory)
        return owner

    def _forget(self, memory: Memory) -> None:
        # Called at any moment, even during a capture: what it may not do then waits for the next `add`.
        self._memories.pop(memory.address, None)
        self._starts = sorted(self._memories)
        self._unused.append(memory)

    def free_unused(self) -> None:
        """Frees the allocations that no array uses any more."""
        while self._unused:
            self._free(self._unused.pop())

    def find(self, address: int, nbytes: int, name: str | None = None) -> Memory:
        """The part of an allocation that an array takes. Raises NetcError where it lies in none."""
        place = bisect_right(self._starts, address) - 1
        memory = self._memories[self._starts[place]] if place >= 0 else None
        if memory is None or address + nbytes > memory.address + memory.nbytes:
            raise NetcError("an array that a kernel is given does not lie in the device's memory")
        return memory.part(address - memory.address, nbytes, name)
