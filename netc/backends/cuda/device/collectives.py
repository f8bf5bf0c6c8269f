"""What several devices do together: sums over their memory, and copies from one to all.

Each device is a rank, a number from 0, with a `Collective` of its own, used from one thread. A call takes
its place in the order of its device's work and returns at once; the work begins when all ranks have come to
it. All ranks must make the same calls in the same order. A call may be captured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from netc.backends.cuda.device.device import Device
from netc.backends.cuda.device.memory import Memory
from netc.errors import NetcError

# The types that can be summed, and whether a mean of them is a number of the same type.
TYPES = {"float32": True, "float64": True, "int32": False, "int64": False}
OPERATIONS = ("sum", "mean")


@dataclass(frozen=True)
class Call:
    """What one rank asks for; it must be the same on all ranks.

    operation: one of `OPERATIONS`, or "copy"; root: the rank that a copy is of, -1 for sums; count: of
    elements; name: the memory's, by which a wrong order shows where all else is alike.
    """

    operation: str
    name: str
    count: int
    dtype: str
    root: int = -1

    def __str__(self) -> str:
        of = f"{self.operation} of rank {self.root}'s" if self.operation == "copy" else f"{self.operation} of"
        return f"{of} {self.name}, {self.count:,} {self.dtype}"


class Collective(ABC):
    """The place of one device among several.

    As a context it is closed at the end; an error that leaves the context is told to the other ranks.
    """

    def __init__(self, device: Device, rank: int, size: int) -> None:
        """size: how many ranks there are."""
        self.device, self.rank, self.size = device, rank, size

    def all_reduce(self, memory: Memory, operation: str = "sum", dtype: str = "float32") -> None:
        """Puts the sum or the mean of all ranks' memory, element by element, in its place on each of them.

        dtype: one of `TYPES`. On GPUs the order of the sums is NCCL's, on the emulator that of the ranks.
        Raises NetcError for an operation, a type or a size that cannot be.
        """
        if operation not in OPERATIONS:
            raise NetcError(
                "there is no such all-reduce", expected=" or ".join(OPERATIONS), found=repr(operation)
            )
        if dtype not in TYPES or (operation == "mean" and not TYPES[dtype]):
            fitting = [name for name, divides in TYPES.items() if divides or operation == "sum"]
            raise NetcError(
                f"the {operation} of {memory.name} over devices cannot be of this type",
                expected=" or ".join(fitting),
                found=str(dtype),
            )
        itemsize = np.dtype(dtype).itemsize
        if memory.nbytes % itemsize:
            raise NetcError(
                f"{memory.name} is no array of {dtype}",
                expected=f"a multiple of {itemsize} bytes",
                found=f"{memory.nbytes:,} bytes",
            )
        self.device.check_memory(memory, "all-reduce")
        self._all_reduce(Call(operation, memory.name, memory.nbytes // itemsize, dtype), memory)

    def broadcast(self, memory: Memory, root: int = 0) -> None:
        """Copies the bytes of rank `root` to all others. Raises NetcError where there is no such rank."""
        if not 0 <= root < self.size:
            raise NetcError(
                f"there is no rank to copy {memory.name} from", expected=f"0 to {self.size - 1}", found=root
            )
        self.device.check_memory(memory, "broadcast")
        self._broadcast(Call("copy", memory.name, memory.nbytes, "bytes", root), memory)

    def finish(self) -> None:
        """Returns when all work of this rank's device is done.

        Raises NetcError where another rank has failed.
        """
        self.device.synchronise()
        self._check()

    @abstractmethod
    def abort(self, error: BaseException) -> None:
        """Tells the other ranks that this one goes no further: their calls raise NetcError from now on."""

    @abstractmethod
    def close(self) -> None:
        """Leaves the others when the work of this rank's device is done. No call may follow."""

    def __enter__(self) -> Collective:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.close()
        except BaseException as late:
            self.abort(late)
            raise
        if error is not None:
            self.abort(error)

    # ---- what a kind of devices does in its own way ----
    @abstractmethod
    def _all_reduce(self, call: Call, memory: Memory) -> None: ...

    @abstractmethod
    def _broadcast(self, call: Call, memory: Memory) -> None: ...

    @abstractmethod
    def _check(self) -> None:
        """Raises NetcError where it is known that a rank has failed."""
