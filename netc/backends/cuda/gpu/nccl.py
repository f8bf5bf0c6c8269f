"""GPUs that work together by NCCL, through CuPy.

Which calls it makes is tested with a module that stands in for NCCL; no GPU has run it yet. NCCL notices
neither ranks that ask for different things nor one that never comes: the emulator does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from netc.backends.cuda.device import Memory
from netc.backends.cuda.device.collectives import Call, Collective
from netc.backends.cuda.gpu.cupy_device import CupyDevice, import_cupy
from netc.errors import NetcError

# Numbers of ncclDataType_t and ncclRedOp_t; CuPy has no name for the mean, which NCCL 2.10 brought.
TYPES = {"bytes": 1, "int32": 2, "int64": 4, "float32": 7, "float64": 8}
OPERATIONS = {"sum": 0, "mean": 4}


class Communicators:
    """NCCL's objects of all ranks, and the error that ended their work."""

    def __init__(self, nccl: Any, numbers: list[int]) -> None:
        self.error_type: type[Exception] = nccl.NcclError
        self.failure: str | None = None
        self.cause: BaseException | None = None
        try:
            self.of_rank: list[Any] = nccl.NcclCommunicator.initAll(numbers)
        except nccl.NcclError as error:
            raise NetcError(f"NCCL cannot join GPUs {', '.join(map(str, numbers))}: {error}") from error

    def check(self) -> None:
        """Raises NetcError where a rank has failed."""
        if self.failure is not None:
            raise NetcError(self.failure) from self.cause

    def abort(self, failure: str, cause: BaseException) -> None:
        """Ends what any rank waits for."""
        if self.failure is None:
            self.failure, self.cause = failure, cause
            for communicator in self.of_rank:
                communicator.abort()


class NcclCollective(Collective):
    """The place of a GPU among several, each used from a thread of its own."""

    device: CupyDevice

    def __init__(self, device: CupyDevice, rank: int, communicators: Communicators) -> None:
        super().__init__(device, rank, len(communicators.of_rank))
        self._communicators, self._own = communicators, communicators.of_rank[rank]

    @contextmanager
    def _asking(self) -> Iterator[int]:
        """The pointer of the device's stream; NCCL's errors become NetcErrors."""
        self._communicators.check()
        try:
            with self.device.active():
                yield self.device.stream.ptr
        except self._communicators.error_type as error:
            raise NetcError(f"NCCL reports an error on {self.device.properties.name}: {error}") from error

    def _all_reduce(self, call: Call, memory: Memory) -> None:
        address, operation = memory.address, OPERATIONS[call.operation]
        with self._asking() as stream:
            self._own.allReduce(address, address, call.count, TYPES[call.dtype], operation, stream)

    def _broadcast(self, call: Call, memory: Memory) -> None:
        address = memory.address
        with self._asking() as stream:
            self._own.broadcast(address, address, call.count, TYPES[call.dtype], call.root, stream)

    def _check(self) -> None:
        with self._asking():
            self._own.check_async_error()

    def abort(self, error: BaseException) -> None:
        self._communicators.abort(f"rank {self.rank} ({self.device.properties.name}) failed: {error}", error)

    def close(self) -> None:
        self.finish()
        self._own.destroy()


def join_gpus(devices: Sequence[CupyDevice]) -> list[NcclCollective]:
    """The collectives of several GPUs. Raises NetcError where NCCL is missing or cannot join them."""
    nccl = getattr(import_cupy().cuda, "nccl", None)
    if not getattr(nccl, "available", False):
        raise NetcError(
            "several GPUs work together by NCCL, which CuPy cannot load",
            remedy="pip install nvidia-nccl-cu13 (nvidia-nccl-cu12 for CUDA 12)",
        )
    communicators = Communicators(nccl, [device.index for device in devices])
    return [NcclCollective(device, rank, communicators) for rank, device in enumerate(devices)]
