"""A GPU of which only the compiler is there: kernels are compiled for it, and nothing is run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from netc.backends.cuda.compilation import Kernel, Variant
from netc.backends.cuda.compilation.cubin import build_cubin, kernel_symbol
from netc.backends.cuda.compilation.nvrtc import Nvrtc
from netc.backends.cuda.device import (
    Allocation,
    Argument,
    Device,
    DeviceProperties,
    Event,
    Graph,
    Grid,
    Memory,
    Product,
)
from netc.backends.cuda.device.arrays import Owner

# Processors, bytes of memory and bytes of shared memory of a block, by compute capability: the largest GPU's.
# (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; NVIDIA's data sheets)
SIZES = {75: (72, 24 << 30, 64 << 10), 80: (108, 80 << 30, 163 << 10), 90: (132, 80 << 30, 227 << 10)}


class NoWork(Graph, Event):
    """Work that is not done, and its end."""

    def replay(self) -> None:
        pass

    def wait(self) -> None:
        pass


class Untouched(np.ndarray):
    """Memory that would be a GPU's: filling it takes the host nothing."""

    def fill(self, value: object) -> None:
        pass


class CompilingDevice(Device):
    """Makes the same choices as a GPU of this compute capability. Its clock, where it has one, says that all
    work takes as long; its memory is the host's, of which pages that nobody touches take nothing.

    built: the seconds of processor time that the kernels took to compile, by name, or to find in the cache.
    """

    xp: ModuleType = np

    def __init__(self, architecture: int = 90, has_clock: bool = True) -> None:
        super().__init__()
        processors, memory, shared = SIZES[architecture]
        name = f"no GPU, compiling for sm_{architecture}"
        self.properties = DeviceProperties(name, architecture, processors, memory, shared, model=name)
        self.has_clock = has_clock
        self.built: dict[str, float] = {}
        self._compiler = Nvrtc()
        self._used = 0

    def _build(self, variant: Variant) -> Path:
        begin = time.thread_time()
        path = build_cubin(self._compiler, variant, variant.target(self.properties.architecture))
        self.built[variant.name] = time.thread_time() - begin
        return path

    def _open(self, variant: Variant, path: Path) -> object:
        return kernel_symbol(path, variant.expression)

    def free_bytes(self) -> int:
        return self.properties.memory_bytes - self._used

    def _allocate(self, nbytes: int, name: str) -> Allocation:
        whole = np.empty(nbytes + 256, np.uint8)
        self._used += nbytes
        return Allocation(self, -(-whole.ctypes.data // 256) * 256, nbytes, name, whole)

    def _free(self, allocation: Allocation) -> None:
        self._used -= allocation.nbytes
        allocation.handle = None

    def _as_array(self, owner: Owner) -> np.ndarray:
        return np.asarray(owner).view(Untouched)

    def _address_of(self, array: np.ndarray) -> int:
        return array.ctypes.data

    def elapsed(self, run: Callable[[], None]) -> float:
        run()
        return 1e-3

    def gemm(self, product: Product, a: Memory, b: Memory, c: Memory, bias: Memory | None = None) -> None:
        pass

    def pinned(self, nbytes: int) -> np.ndarray:
        return np.empty(nbytes, np.uint8)

    def synchronise(self) -> None:
        pass

    def _begin_capture(self) -> Callable[[], Graph]:
        return NoWork

    def _upload(self, memory: Memory, array: np.ndarray) -> None:
        pass

    def _download(self, memory: Memory, array: np.ndarray) -> None:
        """All that is read from it is ones: to the host, an iteration has left one row in its journal."""
        array.fill(1)

    def run_xp(self, run: Callable[[], None]) -> None:
        pass

    def _copy(self, target: Memory, source: Memory) -> None:
        pass

    def _copy_from(self, target: Memory, source: Memory, after: Event) -> None:
        pass

    def _fill(self, memory: Memory, byte: int) -> None:
        pass

    def _launch(
        self, kernel: Kernel, grid: Grid, block: Grid, arguments: Sequence[Argument], shared_bytes: int
    ) -> None:
        pass

    def _send(self, memory: Memory, array: np.ndarray, after: Event | None) -> Event:
        return NoWork()

    def _mark(self) -> Event:
        return NoWork()

    def _wait_for(self, event: Event) -> None:
        pass
