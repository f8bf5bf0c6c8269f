"""The emulated device: kernels run on the CPU, and in check mode every access they make is checked."""

from __future__ import annotations

import ctypes
import itertools
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from netc.backends.cuda.compilation import Kernel, Variant
from netc.backends.cuda.compilation.resources import check_registers
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
from netc.backends.cuda.emulator.compiler import build_kernel
from netc.backends.cuda.emulator.findings import faults
from netc.backends.cuda.emulator.library import KernelLibrary
from netc.backends.cuda.emulator.pages import Pages
from netc.backends.cuda.emulator.runtime import LOCK, ORDERS, SHARED, Index, Launch, Report, Shared, runtime
from netc.backends.cuda.emulator.stream import NOT_YET, EmulatedEvent, Moment, Stream, Work
from netc.backends.cuda.products.gemm import prepare_gemm
from netc.errors import NetcError, raise_errors

ARCHITECTURE = 90  # it knows the instructions of sm_90
SHARED_BYTES = 227 * 1024
NUMBERS = itertools.count()  # of the devices made so far, by which check mode tells them apart
POISON = 0xFF  # as a float, a NaN
QUARANTINE_BYTES = 64 << 20  # freed memory that is kept, poisoned, so that its late use is recognised
# The letters of csrc/entry.h; P is a pointer.
PARAMETERS: dict[str, tuple[str, type[ctypes._SimpleCData]]] = {
    "f": ("float32", ctypes.c_float),
    "d": ("float64", ctypes.c_double),
    "b": ("int8", ctypes.c_int8),
    "h": ("int16", ctypes.c_int16),
    "i": ("int32", ctypes.c_int32),
    "q": ("int64", ctypes.c_int64),
    "B": ("uint8", ctypes.c_uint8),
    "H": ("uint16", ctypes.c_uint16),
    "I": ("uint32", ctypes.c_uint32),
    "Q": ("uint64", ctypes.c_uint64),
    "?": ("bool", ctypes.c_bool),
}


class EmulatedGraph(Graph):
    """Recorded work, each piece a function."""

    def __init__(self, stream: Stream, work: list[Work]) -> None:
        self._stream, self._work = stream, work

    def replay(self) -> None:
        for piece in self._work:
            self._stream.do(piece)


class EmulatedDevice(Device):
    """A device on this machine's memory.

    index: its number, where there are several; check: whether kernels run in check mode; order: that of the
    threads of a block ("forward", "backward" or "random", the latter from `seed`); memory_bytes: how much it
    has, half of the machine's by default.
    Raises NetcError where kernels cannot be compiled on this machine.
    """

    xp = np

    def __init__(
        self,
        index: int = 0,
        *,
        check: bool = False,
        order: str = "forward",
        seed: int = 0,
        memory_bytes: int | None = None,
    ) -> None:
        super().__init__()
        self.check, self.order, self.seed = check, order, seed
        self._runtime = runtime()
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.properties = DeviceProperties(
            name=f"emulated device {index}",
            architecture=ARCHITECTURE,
            processors=1,
            memory_bytes=memory_bytes or installed // 2,
            shared_bytes=SHARED_BYTES,
        )
        self._number = next(NUMBERS)
        self._used = 0
        self._quarantine: deque[Allocation] = deque()
        self._stream = Stream()
        self._recorded: list[Work] | None = None
        self._last_sent = EmulatedEvent()

    # ---- memory ----
    def free_bytes(self) -> int:
        return self.properties.memory_bytes - self._used

    def array(self, memory: Memory) -> np.ndarray:
        """The memory as bytes, for looking at; what is written here stays undefined for check mode."""
        pages: Pages = memory.allocation.handle
        return pages.bytes[memory.offset : memory.offset + memory.nbytes]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within it, functions of `xp` find all earlier work done: they do not wait in line."""
        if not self.capturing:
            self._stream.finish()
        yield

    def _as_array(self, owner: Owner) -> np.ndarray:
        return np.asarray(owner)

    def _address_of(self, array: np.ndarray) -> int:
        return array.ctypes.data

    def _allocate(self, nbytes: int, name: str) -> Allocation:
        pages = Pages(nbytes)
        pages.bytes[...] = POISON
        if self.check:
            region = f"{name} of {self.properties.name}".encode()
            with LOCK:
                self._runtime.emu_add_region(pages.address, nbytes, self._number, region)
            # Also where memory is dropped without being freed: its address may come again.
            weakref.finalize(pages, _forget_region, pages.address)
        self._used += nbytes
        return Allocation(self, pages.address, nbytes, name, pages)

    def _free(self, allocation: Allocation) -> None:
        self._stream.finish()
        self._last_sent.wait()
        allocation.handle.bytes[...] = POISON
        self._used -= allocation.nbytes
        if self.check:
            with LOCK:
                self._runtime.emu_mark_freed(allocation.address)
        self._quarantine.append(allocation)
        while sum(kept.nbytes for kept in self._quarantine) > QUARANTINE_BYTES:
            self._quarantine.popleft().handle = None

    def close(self) -> None:
        """Forgets the work in line, and the freed memory that was kept to recognise its late use."""
        self._stream.drop()
        while self._quarantine:
            self._quarantine.popleft().handle = None

    def _upload(self, memory: Memory, array: np.ndarray) -> None:
        if not self._stream.advance():
            array = array.copy()
        self._stream.do(partial(self.put, memory, array))

    def put(self, memory: Memory, array: np.ndarray) -> None:
        """Writes an array to the beginning of `memory` at once, whatever is in line."""
        self.array(memory)[: array.nbytes] = array.reshape(-1).view(np.uint8)
        self._define(memory.address, array.nbytes, True)

    def pinned(self, nbytes: int) -> np.ndarray:
        return np.empty(nbytes, np.uint8)

    def _send(self, memory: Memory, array: np.ndarray, after: Event | None) -> Event:
        self._last_sent = EmulatedEvent(partial(self.put, memory, array), self._last_sent, after)
        return self._last_sent

    def _mark(self) -> Event:
        return Moment(self._stream)

    def _wait_for(self, event: Event) -> None:
        assert isinstance(event, EmulatedEvent)
        self._stream.do(lambda: None if event.has_come() else NOT_YET)

    def _download(self, memory: Memory, array: np.ndarray) -> None:
        self._stream.finish()
        array.reshape(-1).view(np.uint8)[...] = self.array(memory)[: array.nbytes]

    def _copy(self, target: Memory, source: Memory) -> None:
        self.do(partial(self._run_copy, target, source))

    def _run_copy(self, target: Memory, source: Memory) -> None:
        for memory in (target, source):
            memory.allocation.device.check_memory(memory, "copy")
        self.array(target)[: source.nbytes] = self.array(source)
        if self.check:
            with LOCK:
                self._runtime.emu_copy_defined(target.address, source.address, source.nbytes)

    def _copy_from(self, target: Memory, source: Memory, after: Event) -> None:
        self._wait_for(after)
        self.do(partial(self._run_copy, target, source))

    def _fill(self, memory: Memory, byte: int) -> None:
        self.do(partial(self._run_fill, memory, byte, True))

    def poison(self, memory: Memory) -> None:
        self.check_memory(memory, "poison")
        self.do(partial(self._run_fill, memory, POISON, False))

    def _run_fill(self, memory: Memory, byte: int, defined: bool) -> None:
        self.check_memory(memory, "fill")
        self.array(memory)[...] = byte
        self._define(memory.address, memory.nbytes, defined)

    def _define(self, address: int, nbytes: int, defined: bool) -> None:
        if self.check:
            with LOCK:
                self._runtime.emu_mark_defined(address, nbytes, defined)

    def defined_bytes(self, memory: Memory) -> int:
        """How many bytes have been written before the first that has not; all of them, but in check mode."""
        if not self.check:
            return memory.nbytes
        with LOCK:
            return int(self._runtime.emu_first_undefined(memory.address, memory.nbytes))

    # ---- work ----
    def _build(self, variant: Variant) -> Path:
        check_registers(variant, self.properties.architecture)
        return build_kernel(variant, self.check)

    def _open(self, variant: Variant, path: Path) -> object:
        library = KernelLibrary(path)
        if library.static_shared_bytes > self.properties.static_shared_bytes:
            raise NetcError(
                f"kernel {variant.name} has too much static shared memory",
                expected=f"at most {self.properties.static_shared_bytes:,} bytes",
                found=f"{library.static_shared_bytes:,} bytes",
                remedy="use dynamic shared memory",
            )
        return library

    def gemm(self, product: Product, a: Memory, b: Memory, c: Memory, bias: Memory | None = None) -> None:
        self.bind_gemm(product, a, b, c, bias)()

    def bind_gemm(
        self, product: Product, a: Memory, b: Memory, c: Memory, bias: Memory | None = None
    ) -> Callable[[], None]:
        return prepare_gemm(self, product, a, b, c, bias)

    def synchronise(self) -> None:
        self._refuse_in_capture("wait for the device")
        self._stream.finish()
        self._last_sent.wait()

    def run_xp(self, run: Callable[[], None]) -> None:
        self.do(run)

    def _launch(
        self, kernel: Kernel, grid: Grid, block: Grid, arguments: Sequence[Argument], shared_bytes: int
    ) -> None:
        library = _library(kernel)
        both = shared_bytes + library.static_shared_bytes
        if both > self.properties.shared_bytes:
            raise NetcError(
                f"kernel {kernel.name} cannot be launched: too much shared memory",
                expected=f"at most {self.properties.shared_bytes:,} bytes, dynamic and static",
                found=f"{both:,} bytes",
            )
        values = _argument_values(kernel, library, arguments)
        memories = [argument for argument in arguments if isinstance(argument, Memory)]
        self.do(partial(self._run_launch, kernel, grid, block, values, memories, shared_bytes))

    def _run_launch(
        self,
        kernel: Kernel,
        grid: Grid,
        block: Grid,
        values: list[ctypes._SimpleCData],
        memories: list[Memory],
        shared_bytes: int,
    ) -> None:
        library = _library(kernel)
        for memory in memories:
            self.check_memory(memory, f"run kernel {kernel.name} on")
        pointers = (ctypes.c_void_p * max(len(values), 1))(*map(ctypes.addressof, values))
        shared = (Shared * max(len(library.shared), 1))(
            *(Shared(v.address, v.nbytes) for v in library.shared)
        )
        launch = Launch(
            library.entry, pointers, Index(*grid), Index(*block), shared_bytes, shared, len(library.shared),
            self.check, ORDERS[self.order], self.seed,
        )  # fmt: skip
        with LOCK:
            if self.check:
                self._allow(library, memories)
            try:
                count = self._runtime.emu_launch(launch)
                reports = [_copy_of(self._runtime.emu_report(i).contents) for i in range(count)]
            finally:
                if self.check:
                    self._runtime.emu_forget_allowed()
                    for variable in library.shared:
                        self._runtime.emu_remove_region(variable.address)
        if reports:
            raise_errors(faults(kernel.variant, library, reports))

    def _allow(self, library: KernelLibrary, memories: list[Memory]) -> None:
        """Tells check mode all that this launch may touch."""
        for variable in library.shared:
            name = variable.name.encode()
            self._runtime.emu_add_region(variable.address, variable.nbytes, SHARED, name)
            self._runtime.emu_allow(variable.address, variable.nbytes, name)
        for memory in memories:
            self._runtime.emu_allow(memory.address, memory.nbytes, memory.name.encode())
        for begin, end in library.constants:
            self._runtime.emu_allow_constants(begin, end)
        self._runtime.emu_set_place(self._number, library.base)

    def _begin_capture(self) -> Callable[[], Graph]:
        work: list[Work] = []
        self._recorded = work

        def finish() -> Graph:
            self._recorded = None
            return EmulatedGraph(self._stream, work)

        return finish

    def do(self, piece: Work) -> None:
        """Does a piece of work after all that was asked for, or records it while capturing.

        It may return NOT_YET, to be asked again.
        """
        if self._recorded is None:
            self._stream.do(piece)
        else:
            self._recorded.append(piece)


def _forget_region(address: int) -> None:
    with LOCK:
        runtime().emu_remove_region(address)


def _library(kernel: Kernel) -> KernelLibrary:
    assert isinstance(kernel.handle, KernelLibrary), "the kernel was loaded by another kind of device"
    return kernel.handle


def _copy_of(report: Report) -> Report:
    return Report.from_buffer_copy(report)


def _argument_values(
    kernel: Kernel, library: KernelLibrary, arguments: Sequence[Argument]
) -> list[ctypes._SimpleCData]:
    """The arguments as C values. Raises NetcError where they do not fit the kernel's parameters."""
    if len(arguments) != len(library.parameters):
        raise NetcError(
            f"kernel {kernel.name}: the number of arguments differs",
            expected=len(library.parameters),
            found=len(arguments),
        )
    pairs = enumerate(zip(arguments, library.parameters, strict=True))
    return [_value(kernel, position, argument, letter) for position, (argument, letter) in pairs]


def _value(kernel: Kernel, position: int, argument: Argument, letter: str) -> ctypes._SimpleCData:
    if letter == "P":
        expected, found = "memory or None", None if _is_pointer(argument) else _type_of(argument)
    elif letter in PARAMETERS:
        expected = PARAMETERS[letter][0]
        found = None if _type_of(argument) == expected else _type_of(argument)
    else:
        expected, found = "a pointer or a number as its parameter", "a structure"
    if found is not None:
        raise NetcError(
            f"kernel {kernel.name}: argument {position} has the wrong type", expected=expected, found=found
        )
    if letter == "P":
        return ctypes.c_void_p(argument.address if isinstance(argument, Memory) else None)
    assert isinstance(argument, np.generic)
    return PARAMETERS[letter][1](argument.item())


def _is_pointer(argument: Argument) -> bool:
    return argument is None or isinstance(argument, Memory)


def _type_of(argument: Argument) -> str:
    return argument.dtype.name if isinstance(argument, np.generic) else "memory or None"
