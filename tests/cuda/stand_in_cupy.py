"""A module that stands in for CuPy: memory of the host, and a list of what was asked for.

It shows that netc's own part is right where no GPU is: which calls it makes in which order, and what it makes
of CUDA's errors. That CuPy and a GPU do what is asked of them is for tests on a GPU.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

WORK = 5  # the pointer of the first stream


class CudaError(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError."""

    def __init__(self, status: int, text: str = "cudaError") -> None:
        super().__init__(text)
        self.status = status


class DriverError(RuntimeError):
    """cupy.cuda.driver.CUDADriverError."""


class Context:
    """What is entered with `with`: a device or a stream."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class StandInCupy:
    """The cupy module of a machine with this driver and memory; `calls` is what was asked for."""

    def __init__(
        self,
        *,
        driver: int = 13000,
        count: int | CudaError = 1,
        free: int = 1 << 20,
        limit: int | None = None,
    ) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.pinned: list[bytearray] = []
        self._streams = 0
        self._events = 0
        self.limit = free if limit is None else limit
        runtime = SimpleNamespace(
            CUDARuntimeError=CudaError,
            driverGetVersion=lambda: driver,
            runtimeGetVersion=lambda: 13020,
            getDeviceCount=lambda: self._count(count),
            getDeviceProperties=lambda index: {
                "name": b"Stand-in",
                "major": 9,
                "minor": 0,
                "multiProcessorCount": 132,
                "totalGlobalMem": 1 << 21,
                "sharedMemPerBlockOptin": 232448,
            },
            memGetInfo=lambda: (free, 1 << 21),
            memcpyHostToDevice=1,
            memcpyDeviceToHost=2,
            memcpyDeviceToDevice=3,
            memcpyAsync=self._memcpy,
            memsetAsync=self._memset,
        )
        self.cuda = SimpleNamespace(
            runtime=runtime,
            driver=SimpleNamespace(CUDADriverError=DriverError),
            memory=SimpleNamespace(OutOfMemoryError=MemoryError),
            device=SimpleNamespace(get_cublas_handle=lambda: 77),
            Device=lambda index: Context(),
            Stream=lambda non_blocking: self._stream(),
            Event=self._event,
            get_elapsed_time=lambda begin, end: 2.5 * (end.number - begin.number),  # milliseconds
            alloc_pinned_memory=self._pinned,
            Memory=self._memory,
        )

    @staticmethod
    def _count(count: int | CudaError) -> int:
        if isinstance(count, CudaError):
            raise count
        return count

    def _memory(self, nbytes: int) -> Any:
        if nbytes > self.limit:
            raise CudaError(2, "cudaErrorMemoryAllocation: out of memory")
        buffer = ctypes.create_string_buffer(nbytes)
        return SimpleNamespace(ptr=ctypes.addressof(buffer), buffer=buffer)

    def _memcpy(self, target: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        self.calls.append(("memcpy", kind, nbytes) if stream == WORK else ("send", nbytes, stream))
        ctypes.memmove(target, source, nbytes)

    def _memset(self, target: int, byte: int, nbytes: int, stream: int) -> None:
        self.calls.append(("memset", byte, nbytes))
        ctypes.memset(target, byte, nbytes)

    def _pinned(self, nbytes: int) -> bytearray:
        if nbytes > self.limit:
            raise CudaError(2, "cudaErrorMemoryAllocation: out of memory")
        self.pinned.append(bytearray(nbytes + 512 - nbytes % 512))
        return self.pinned[-1]

    def _event(self, *, disable_timing: bool = False) -> Any:
        number = self._events
        self._events += 1
        return SimpleNamespace(
            number=number,
            record=lambda stream: self.calls.append(("record", stream.ptr, number)),
            synchronize=lambda: self.calls.append(("await", number)),
        )

    def _stream(self) -> Any:
        stream = Context()
        pointer = WORK + self._streams
        self._streams += 1
        stream.ptr = pointer  # type: ignore[attr-defined]
        stream.synchronize = lambda: self.calls.append(  # type: ignore[attr-defined]
            ("synchronize",) if pointer == WORK else ("synchronize", pointer)
        )
        stream.wait_event = lambda event: self.calls.append(  # type: ignore[attr-defined]
            ("wait", pointer, event.number)
        )
        stream.begin_capture = lambda: self.calls.append(("begin_capture",))  # type: ignore[attr-defined]
        graph = SimpleNamespace(launch=lambda where: self.calls.append(("graph launch", where is stream)))
        stream.end_capture = lambda: graph  # type: ignore[attr-defined]
        return stream

    def RawModule(self, *, path: str) -> Any:
        return SimpleNamespace(get_function=self._function)

    def _function(self, symbol: str) -> Any:
        calls = self.calls

        class Function:
            max_dynamic_shared_size_bytes = 0

            def __call__(self, grid: Any, block: Any, arguments: Any, shared_mem: int) -> None:
                most = self.max_dynamic_shared_size_bytes
                calls.append(("launch", symbol, grid, block, arguments, shared_mem, most))

        return Function()
