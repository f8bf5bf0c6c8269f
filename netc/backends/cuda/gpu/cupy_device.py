"""A GPU through CuPy: its memory, streams and graphs; products by cuBLAS; kernels from netc's own cubins."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

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
from netc.backends.cuda.products.gemm import prepare_gemm
from netc.errors import NetcError

# Status codes of the CUDA runtime.
DRIVER_TOO_OLD, NO_DEVICE, OUT_OF_MEMORY = 35, 100, 2
STATIC_SHARED_BYTES = 48 * 1024  # what a kernel may have without asking for more
MATH_MODES = {
    "fp32": "CUBLAS_DEFAULT_MATH",
    "tf32": "CUBLAS_TF32_TENSOR_OP_MATH",
    "bf16": "CUBLAS_DEFAULT_MATH",
    "fp16": "CUBLAS_DEFAULT_MATH",
}
# cublasComputeType_t: fp32 matrices whose factors may be rounded (CUBLAS_COMPUTE_32F_FAST_16F and _16BF)
NARROW_COMPUTE = {"fp16": 74, "bf16": 75}
CUDA_R_32F, DEFAULT_ALGORITHM = 0, -1
WITHOUT_GPU = "run on the emulator with -gpu emulated, or on the CPU by leaving out -gpu"


def import_cupy() -> Any:
    """The cupy module. Raises NetcError where it cannot be imported."""
    try:
        import cupy
    except ImportError as error:
        raise NetcError(
            f"netc runs on a GPU through CuPy, which cannot be imported: {error}",
            remedy=f"pip install 'netc[cuda13]' (netc[cuda12] for an older driver), or {WITHOUT_GPU}",
        ) from error
    return cupy


def device_count(cupy: Any) -> int:
    """How many GPUs there are, at least one.

    Raises NetcError where there is no driver, one that is too old, or no GPU.
    """
    runtime = cupy.cuda.runtime
    driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        raise NetcError(
            "this machine has no NVIDIA driver",
            remedy=f"install the driver for the GPU, or {WITHOUT_GPU}",
        )
    try:
        count: int = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        if error.status == DRIVER_TOO_OLD:
            raise NetcError(
                "the NVIDIA driver is too old for the installed CuPy",
                expected=f"a driver for CUDA {_version(needed)} or newer",
                found=f"one for CUDA {_version(driver)}",
                remedy="update the driver, or install CuPy for its version: pip install 'netc[cuda12]'",
            ) from error
        count = 0
        if error.status != NO_DEVICE:
            raise NetcError(f"the NVIDIA driver does not answer: {error}", remedy=WITHOUT_GPU) from error
    if count == 0:
        raise NetcError("this machine has an NVIDIA driver but no GPU that it can use", remedy=WITHOUT_GPU)
    return count


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


class CupyGraph(Graph):
    """A CUDA graph, launched on its device's stream."""

    def __init__(self, device: CupyDevice, graph: Any) -> None:
        self._device, self._graph = device, graph

    def replay(self) -> None:
        with self._device.active():
            self._graph.launch(self._device.stream)


class CupyEvent(Event):
    """A CUDA event on one of a device's streams."""

    def __init__(self, device: CupyDevice, stream: Any) -> None:
        self._device = device
        with device.active():
            self.event = device.xp.cuda.Event(disable_timing=True)
            self.event.record(stream)

    def wait(self) -> None:
        with self._device.active():
            self.event.synchronize()


class CupyDevice(Device):
    """GPU number `index`. Raises NetcError where there is none of this number, or none at all."""

    has_clock = True

    def __init__(self, index: int = 0) -> None:
        super().__init__()
        self._cupy = self.xp = cupy = import_cupy()
        count = device_count(cupy)
        if not 0 <= index < count:
            numbers = "GPU 0" if count == 1 else f"GPUs 0 to {count - 1}"
            raise NetcError(
                f"there is no GPU {index} on this machine",
                expected=numbers,
                found=str(index),
                remedy=f"choose one with -gpu, or {WITHOUT_GPU}",
            )
        self._runtime = cupy.cuda.runtime
        found = self._runtime.getDeviceProperties(index)
        self.properties = DeviceProperties(
            name=f"GPU {index} ({found['name'].decode()})",
            architecture=10 * found["major"] + found["minor"],
            processors=found["multiProcessorCount"],
            memory_bytes=found["totalGlobalMem"],
            shared_bytes=found["sharedMemPerBlockOptin"],
            model=found["name"].decode(),
        )
        self.index = index
        self._device = cupy.cuda.Device(index)
        with self._device:
            self.stream = cupy.cuda.Stream(non_blocking=True)
            self.sending = cupy.cuda.Stream(non_blocking=True)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Makes this device and its stream those that CuPy works on. A CUDA error becomes a NetcError."""
        errors = (self._runtime.CUDARuntimeError, self._cupy.cuda.driver.CUDADriverError)
        try:
            with self._device, self.stream:
                yield
        except errors as error:
            raise NetcError(f"{self.properties.name} reports an error: {error}") from error

    def temporaries(self) -> Callable[[], AbstractContextManager[Any]]:
        pool = self._cupy.cuda.MemoryPool()
        return functools.partial(self._cupy.cuda.using_allocator, pool.malloc)

    # ---- memory ----
    def _as_array(self, owner: Owner) -> Any:
        address, nbytes = owner.memory.address, owner.memory.nbytes
        unowned = self._cupy.cuda.UnownedMemory(address, max(nbytes, 1), owner)
        pointer = self._cupy.cuda.MemoryPointer(unowned, 0)
        return self._cupy.ndarray((nbytes,), np.uint8, memptr=pointer)

    def _address_of(self, array: Any) -> int:
        return int(array.data.ptr)

    def free_bytes(self) -> int:
        with self.active():
            free, _ = self._runtime.memGetInfo()
        return int(free)

    def _allocate(self, nbytes: int, name: str) -> Allocation:
        try:
            with self._device:
                handle = self._cupy.cuda.Memory(max(nbytes, 1))
        except (self._runtime.CUDARuntimeError, self._cupy.cuda.memory.OutOfMemoryError) as error:
            if getattr(error, "status", OUT_OF_MEMORY) != OUT_OF_MEMORY:
                raise NetcError(f"{self.properties.name} cannot allocate {name}: {error}") from error
            raise self.out_of_memory(nbytes, self.free_bytes()) from error
        return Allocation(self, handle.ptr, nbytes, name, handle)

    def _free(self, allocation: Allocation) -> None:
        self.synchronise()  # work and copies under way may still use it
        allocation.handle = None

    def _upload(self, memory: Memory, array: np.ndarray) -> None:
        kind = self._runtime.memcpyHostToDevice
        with self.active():  # from pageable memory: the call returns when the array has been read
            self._runtime.memcpyAsync(memory.address, array.ctypes.data, array.nbytes, kind, self.stream.ptr)

    def pinned(self, nbytes: int) -> np.ndarray:
        try:
            # A device of its own: what an entered device remembers is no matter for several threads.
            with self._cupy.cuda.Device(self.index):
                memory = self._cupy.cuda.alloc_pinned_memory(max(nbytes, 1))
        except self._runtime.CUDARuntimeError as error:
            raise NetcError(
                f"{self.properties.name} cannot pin {nbytes:,} bytes of the host's memory: {error}",
                remedy="a smaller batch_size, or fewer batches of data_param { prefetch }",
            ) from error
        return np.frombuffer(memory, np.uint8, nbytes)

    def _send(self, memory: Memory, array: np.ndarray, after: Event | None) -> Event:
        kind = self._runtime.memcpyHostToDevice
        with self.active():
            if isinstance(after, CupyEvent):
                self.sending.wait_event(after.event)
            self._runtime.memcpyAsync(memory.address, array.ctypes.data, array.nbytes, kind, self.sending.ptr)
        return CupyEvent(self, self.sending)

    def _mark(self) -> Event:
        return CupyEvent(self, self.stream)

    def _wait_for(self, event: Event) -> None:
        assert isinstance(event, CupyEvent)
        with self.active():
            self.stream.wait_event(event.event)

    def _download(self, memory: Memory, array: np.ndarray) -> None:
        kind = self._runtime.memcpyDeviceToHost
        with self.active():
            self._runtime.memcpyAsync(array.ctypes.data, memory.address, array.nbytes, kind, self.stream.ptr)
            self.stream.synchronize()

    def _copy(self, target: Memory, source: Memory) -> None:
        kind = self._runtime.memcpyDeviceToDevice
        with self.active():
            self._runtime.memcpyAsync(target.address, source.address, source.nbytes, kind, self.stream.ptr)

    def _copy_from(self, target: Memory, source: Memory, after: Event) -> None:
        assert isinstance(after, CupyEvent)
        giver: CupyDevice = source.allocation.device
        with self.active():
            self.stream.wait_event(after.event)
            self._runtime.memcpyPeerAsync(
                target.address, self.index, source.address, giver.index, source.nbytes, self.stream.ptr
            )

    def _fill(self, memory: Memory, byte: int) -> None:
        with self.active():
            self._runtime.memsetAsync(memory.address, byte, memory.nbytes, self.stream.ptr)

    # ---- work ----
    def _build(self, variant: Variant) -> Path:
        return build_cubin(_compiler(), variant, variant.target(self.properties.architecture))

    def _open(self, variant: Variant, path: Path) -> object:
        with self.active():
            module = self._cupy.RawModule(path=str(path))
            function = module.get_function(kernel_symbol(path, variant.expression))
            if variant.shared_bytes > STATIC_SHARED_BYTES:
                function.max_dynamic_shared_size_bytes = variant.shared_bytes
        return function

    def _launch(
        self, kernel: Kernel, grid: Grid, block: Grid, arguments: Sequence[Argument], shared_bytes: int
    ) -> None:
        function: Any = kernel.handle
        with self.active():
            function(grid, block, tuple(map(_as_cupy_takes_it, arguments)), shared_mem=shared_bytes)

    def gemm(self, product: Product, a: Memory, b: Memory, c: Memory, bias: Memory | None = None) -> None:
        """By cuBLAS, whose matrices are column-major: it is given C' = B' A', which is the same memory.

        Where more than the product is asked for, by one of netc's own kernels.
        """
        if is_more_than_product(product, bias):
            prepare_gemm(self, product, a, b, c, bias)()
            return
        if product.math not in MATH_MODES:
            raise NetcError(
                "there is no matrix product in this math mode",
                expected=" or ".join(MATH_MODES),
                found=product.math,
            )
        for memory in (a, b, c):
            self.check_memory(memory, "multiply with")
        with self.active():
            self._cublas_gemm(_import_cublas(), product, a, b, c)

    def bind_gemm(
        self, product: Product, a: Memory, b: Memory, c: Memory, bias: Memory | None = None
    ) -> Callable[[], None]:
        if is_more_than_product(product, bias):
            return prepare_gemm(self, product, a, b, c, bias)
        return functools.partial(self.gemm, product, a, b, c)

    def _cublas_gemm(self, cublas: Any, product: Product, a: Memory, b: Memory, c: Memory) -> None:
        m, n, k = product.m, product.n, product.k
        row_of_a, row_of_b = m if product.trans_a else k, k if product.trans_b else n
        transposed = {False: cublas.CUBLAS_OP_N, True: cublas.CUBLAS_OP_T}
        alpha, beta = np.array(product.alpha, np.float32), np.array(product.beta, np.float32)
        handle = self._cupy.cuda.device.get_cublas_handle()
        cublas.setMathMode(handle, getattr(cublas, MATH_MODES[product.math]))
        sizes = transposed[product.trans_b], transposed[product.trans_a], n, m, k, alpha.ctypes.data
        pitch_a, pitch_b, pitch_c = max(row_of_a, 1), max(row_of_b, 1), max(n, 1)
        if product.math in NARROW_COMPUTE:
            cublas.gemmStridedBatchedEx(
                handle, *sizes, b.address, CUDA_R_32F, pitch_b, k * n, a.address, CUDA_R_32F, pitch_a, m * k,
                beta.ctypes.data, c.address, CUDA_R_32F, pitch_c, m * n, product.batch,
                NARROW_COMPUTE[product.math], DEFAULT_ALGORITHM,
            )  # fmt: skip
        elif product.batch != 1:
            cublas.sgemmStridedBatched(
                handle, *sizes, b.address, pitch_b, k * n, a.address, pitch_a, m * k,
                beta.ctypes.data, c.address, pitch_c, m * n, product.batch,
            )  # fmt: skip
        else:
            cublas.sgemm(
                handle, *sizes, b.address, pitch_b, a.address, pitch_a, beta.ctypes.data, c.address, pitch_c
            )

    def synchronise(self) -> None:
        self._refuse_in_capture("wait for the device")
        with self.active():
            self.sending.synchronize()
            self.stream.synchronize()

    def elapsed(self, run: Callable[[], None]) -> float:
        self._refuse_in_capture("time work")
        with self.active():
            begin, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
            begin.record(self.stream)
            run()
            end.record(self.stream)
            end.synchronize()
            return float(self._cupy.cuda.get_elapsed_time(begin, end)) / 1000

    def _begin_capture(self) -> Callable[[], Graph]:
        with self.active():
            self.stream.begin_capture()

        def finish() -> Graph:
            with self.active():
                return CupyGraph(self, self.stream.end_capture())

        return finish


def is_more_than_product(product: Product, bias: Memory | None) -> bool:
    """Whether cuBLAS does not do all that is asked for."""
    return product.bias is not None or product.relu is not None or bias is not None


def _as_cupy_takes_it(argument: Argument) -> np.generic:
    """Pointers go as 64-bit numbers; numpy scalars are passed as they are."""
    if isinstance(argument, Memory):
        return np.uint64(argument.address)
    return np.uint64(0) if argument is None else argument


@functools.cache
def _compiler() -> Nvrtc:
    return Nvrtc()


def _import_cublas() -> Any:
    try:
        return importlib.import_module("cupy_backends.cuda.libs.cublas")
    except ImportError as error:
        raise NetcError(
            f"cuBLAS cannot be loaded: {error}", remedy="pip install 'cupy-cuda13x[ctk]' (or cuda12x)"
        ) from error
