"""Device memory: allocations, and the named parts of them that kernels are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from netc.errors import NetcError


@dataclass(eq=False)
class Allocation:
    """One piece of memory of one device. `handle` is what keeps it alive there."""

    device: Any
    address: int
    nbytes: int
    name: str
    handle: Any
    freed: bool = field(default=False)


@dataclass(frozen=True, eq=False)
class Memory:
    """A part of an allocation, under the name that it has in reports.

    A kernel may touch no byte outside the parts that its launch is given, even where the allocation goes on;
    the emulator's check mode holds it to that.
    """

    allocation: Allocation
    offset: int
    nbytes: int
    name: str

    @property
    def address(self) -> int:
        return self.allocation.address + self.offset

    def part(self, offset: int, nbytes: int, name: str | None = None) -> Memory:
        """The bytes from `offset` on. Raises NetcError where this part does not have so many."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise NetcError(
                f"a part of the memory of {self.name} lies outside it",
                expected=f"at most {self.nbytes:,} bytes",
                found=f"{nbytes:,} bytes from byte {offset:,} on",
            )
        return Memory(self.allocation, self.offset + offset, nbytes, name or self.name)
