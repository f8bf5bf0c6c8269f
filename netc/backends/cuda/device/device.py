"""The device that kernels run on, as the backend sees it: memory, copies, launches, products, graphs.

What is the same on every device is checked here, so that a program that is right on the emulator meets the
same rules on a GPU: the limits of a launch, the types of its arguments, what a capture forbids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from netc.backends.cuda.compilation import Kernel, Variant
from netc.backends.cuda.compilation.loader import Loader
from netc.backends.cuda.device.arrays import ArrayTable, Owner, is_channels_last
from netc.backends.cuda.device.launch_rules import check_exact_type, check_limits
from netc.backends.cuda.device.memory import Allocation, Memory
from netc.backends.cuda.device.product import Product
from netc.backends.cuda.device.properties import DeviceProperties, Grid
from netc.errors import NetcError

# What a kernel is given: memory, a number of exactly the parameter's type, or None for a null pointer.
Argument = Memory | np.generic | None

GIB = 1 << 30


class Graph(ABC):
    """The work of one capture, to be run again as a whole."""

    @abstractmethod
    def replay(self) -> None:
        """Runs the captured work. What it reads from device memory may have changed since."""


class Event(ABC):
    """A moment in a device's work: when all that was asked for before it is done."""

    @abstractmethod
    def wait(self) -> None:
        """Returns when it has come."""


class Device(ABC):
    """One GPU, or what stands in for it. Work is asked for in order and may still run when a call returns."""

    properties: DeviceProperties
    xp: ModuleType  # the array module of its memory
    has_clock: bool = False  # whether it can tell how long work takes

    def __init__(self) -> None:
        self.capturing = False
        self._arrays = ArrayTable(self.free)
        self._traced: list[str] | None = None
        self._loader = Loader(self._build, self._open)

    # ---- memory ----
    def allocate(self, nbytes: int, name: str = "memory") -> Memory:
        """Memory with undefined contents, aligned to 256 bytes.

        name: what reports call it. Raises NetcError where the device has less free, saying how much.
        """
        self._refuse_in_capture(f"allocate memory for {name}")
        free = self.free_bytes()
        if nbytes > free:
            raise self.out_of_memory(nbytes, free)
        return Memory(self._allocate(nbytes, name), 0, nbytes, name)

    def allocate_array(self, nbytes: int, name: str = "memory") -> Any:
        """Zeroed memory as an array of bytes of `xp`; it is freed when nothing uses the array any more."""
        self._arrays.free_unused()
        memory = self.allocate(nbytes, name)
        self.fill(memory)
        return self._as_array(self._arrays.add(memory))

    def memory_of(self, array: Any, name: str | None = None) -> Memory:
        """Where an array of this device lies: a contiguous one, or one of shape (N, C, H, W) that lies as
        (N, H, W, C). name: what reports call it."""
        if not (array.flags.c_contiguous or is_channels_last(array)):
            raise NetcError("a kernel is given an array that is not contiguous", found=tuple(array.strides))
        return self._arrays.find(self._address_of(array), array.nbytes, name)

    def active(self) -> AbstractContextManager[None]:
        """Within it, functions of `xp` work on this device, in the order of its other work."""
        return nullcontext()

    def run_xp(self, run: Callable[[], None]) -> None:
        """Runs work that consists of functions of `xp`, or records it."""
        run()

    def temporaries(self) -> Callable[[], AbstractContextManager[Any]]:
        """Makes a place for what functions of `xp` allocate, as contexts that may be entered again and again.

        Once some work has run within it, recording the same work allocates nothing anew. The place lives as
        long as its function.
        """
        return nullcontext

    def out_of_memory(self, planned: int, free: int) -> NetcError:
        """The error for a plan of `planned` bytes where `free` are left."""
        return NetcError(
            f"the net does not fit into the free memory of {self.properties.name}",
            expected=f"at most {free:,} bytes ({free / GIB:.2f} GiB) of {self.properties.memory_bytes:,}",
            found=f"{planned:,} bytes ({planned / GIB:.2f} GiB) planned",
            remedy="a smaller batch_size, smaller inputs, another device, or end what else uses its memory",
        )

    def free(self, memory: Memory) -> None:
        """Gives a whole allocation back; none of its parts may be used any more."""
        self._refuse_in_capture(f"free {memory.name}")
        self.check_memory(memory, "free")
        memory.allocation.freed = True
        self._free(memory.allocation)

    def upload(self, memory: Memory, array: np.ndarray) -> None:
        """Copies an array from the host to the beginning of `memory`. The array may change after the call."""
        self._check_copy(memory, array.nbytes, "copy from the host to")
        self._refuse_in_capture(f"copy from the host to {memory.name}")
        self._upload(memory, np.ascontiguousarray(array))

    @abstractmethod
    def pinned(self, nbytes: int) -> np.ndarray:
        """Bytes on the host that `send` can copy while other work goes on. May be called from any thread."""

    def send(self, memory: Memory, array: np.ndarray, after: Event | None = None) -> Event:
        """Copies what `pinned` gave to the beginning of `memory`, beside the work asked for elsewhere.

        Begins when `after` has come. Until the event that it returns has come, nobody may change the array or
        read the memory.
        """
        self._check_copy(memory, array.nbytes, "send to")
        self._refuse_in_capture(f"send to {memory.name}")
        return self._send(memory, array, after)

    def mark(self) -> Event:
        """The moment when all work asked for so far is done, but for what has been sent."""
        self._refuse_in_capture("mark a moment")
        return self._mark()

    def wait_for(self, event: Event) -> None:
        """Work asked for from now on begins when an event has come; the call itself does not wait."""
        self._refuse_in_capture("wait for an event")
        self._wait_for(event)

    def download(self, memory: Memory, array: np.ndarray) -> np.ndarray:
        """Fills a contiguous array on the host from the beginning of `memory`, and returns it."""
        self._check_copy(memory, array.nbytes, "copy to the host from")
        self._refuse_in_capture(f"copy to the host from {memory.name}")
        if not array.flags.c_contiguous:
            raise NetcError(f"{memory.name} can only be copied to a contiguous array")
        self._download(memory, array)
        return array

    def copy(self, target: Memory, source: Memory) -> None:
        """Copies `source` to the beginning of `target`, within the device. May be captured."""
        self.check_memory(source, "copy")
        self._check_copy(target, source.nbytes, "copy to")
        self._copy(target, source)

    def copy_from(self, target: Memory, source: Memory, after: Event) -> None:
        """Copies another device's memory to the beginning of `target`, in the order of this device's work.

        after: the other device's moment (`mark`) when what `source` holds is there; it must not change until
        the copy is done. Raises NetcError where the devices are of different kinds.
        """
        giver: Device = source.allocation.device
        if not (isinstance(giver, type(self)) or isinstance(self, type(giver))):
            raise NetcError(
                f"{self.properties.name} cannot copy {source.name} from another kind of device",
                found=giver.properties.name,
            )
        giver.check_memory(source, "copy")
        self._check_copy(target, source.nbytes, "copy to")
        self._refuse_in_capture(f"copy from {giver.properties.name}")
        self._copy_from(target, source, after)

    def fill(self, memory: Memory, byte: int = 0) -> None:
        """Sets every byte. May be captured."""
        self.check_memory(memory, "fill")
        self._fill(memory, byte)

    def poison(self, memory: Memory) -> None:
        """Fills memory whose contents nobody may read any more with NaN; the emulator reports such a read."""
        self.fill(memory, 0xFF)

    # ---- work ----
    def load(self, variant: Variant) -> Kernel:
        """Compiles a kernel, or finds it compiled. Raises NetcError with the compiler's message.

        While capturing, only kernels that have been loaded before are there: loading one works on the device.
        """
        if not self._loader.has(variant):
            self._refuse_in_capture(f"load kernel {variant.name}")
        return self._loader.load(variant)

    def loading_together(self) -> AbstractContextManager[None]:
        """Kernels loaded in this context are compiled at the same time; at its end all are ready.

        One that does not compile raises NetcError then.
        """
        return self._loader.together()

    def launch(
        self,
        kernel: Kernel,
        grid: Grid,
        block: Grid,
        arguments: Sequence[Argument],
        shared_bytes: int | None = None,
    ) -> None:
        """Runs a kernel over `grid` blocks of `block` threads, (x, y, z) with ones left out.

        arguments: memory, numpy scalars of the parameters' exact types, or None for a null pointer;
        shared_bytes: dynamic shared memory of a block, if it is not the variant's.
        Raises NetcError where a limit of the device is passed or an argument does not fit.
        """
        grid, block = (*grid, 1, 1)[:3], (*block, 1, 1)[:3]
        shared = kernel.variant.shared_bytes if shared_bytes is None else shared_bytes
        check_limits(self.properties, kernel, grid, block, shared)
        for position, argument in enumerate(arguments):
            if isinstance(argument, Memory):
                self.check_memory(argument, f"give kernel {kernel.name}")
            else:
                check_exact_type(kernel, position, argument)
        if self._traced is not None:
            self._traced.append(f"{kernel.name} [{grid[0] * grid[1] * grid[2]}]")
            return
        if kernel.handle is None:
            self._refuse_in_capture(f"load kernel {kernel.name}")
            self._loader.finish(kernel)
        self._launch(kernel, grid, block, arguments, shared)

    @abstractmethod
    def gemm(self, product: Product, a: Memory, b: Memory, c: Memory, bias: Memory | None = None) -> None:
        """Computes a matrix product; `c` is read only where beta is not 0. bias: what the product says."""

    def bind_gemm(
        self, product: Product, a: Memory, b: Memory, c: Memory, bias: Memory | None = None
    ) -> Callable[[], None]:
        """`gemm`, made ready to be run again and again."""
        return partial(self.gemm, product, a, b, c, bias)

    @abstractmethod
    def synchronise(self) -> None:
        """Returns when all work asked for so far is done."""

    def elapsed(self, run: Callable[[], None]) -> float:
        """Does some work and returns how many seconds the device took; only where it `has_clock`."""
        raise NotImplementedError

    @contextmanager
    def tracing(self) -> Iterator[list[str]]:
        """Kernels launched in this context are not run: the list gets their names and numbers of blocks."""
        self._traced = []
        try:
            yield self._traced
        finally:
            self._traced = None

    @contextmanager
    def capture(self) -> Iterator[list[Graph]]:
        """Work asked for in this context is not run but recorded; afterwards the list holds its graph.

        Allocating, freeing, copying from or to the host, synchronising and a second capture raise NetcError
        meanwhile: on a GPU they would end the capture or escape it.
        """
        self._refuse_in_capture("begin another capture")
        graphs: list[Graph] = []
        self.capturing = True
        finish = self._begin_capture()
        ended = False
        try:
            yield graphs
            ended = True
        finally:
            self.capturing = False
            graph = finish()
            if ended:
                graphs.append(graph)

    @abstractmethod
    def free_bytes(self) -> int:
        """How much memory can still be allocated."""

    def close(self) -> None:  # noqa: B027 -- most devices hold nothing that must be given back early
        """Gives back what the device holds."""

    # ---- what a device does in its own way ----
    @abstractmethod
    def _as_array(self, owner: Owner) -> Any: ...

    @abstractmethod
    def _address_of(self, array: Any) -> int: ...

    @abstractmethod
    def _allocate(self, nbytes: int, name: str) -> Allocation: ...

    @abstractmethod
    def _free(self, allocation: Allocation) -> None: ...

    @abstractmethod
    def _upload(self, memory: Memory, array: np.ndarray) -> None: ...

    @abstractmethod
    def _download(self, memory: Memory, array: np.ndarray) -> None: ...

    @abstractmethod
    def _send(self, memory: Memory, array: np.ndarray, after: Event | None) -> Event: ...

    @abstractmethod
    def _mark(self) -> Event: ...

    @abstractmethod
    def _wait_for(self, event: Event) -> None: ...

    @abstractmethod
    def _copy(self, target: Memory, source: Memory) -> None: ...

    def _copy_from(self, target: Memory, source: Memory, after: Event) -> None:
        raise NotImplementedError

    @abstractmethod
    def _fill(self, memory: Memory, byte: int) -> None: ...

    @abstractmethod
    def _build(self, variant: Variant) -> Path:
        """Compiles a kernel to a file, or finds it compiled; in any thread."""

    @abstractmethod
    def _open(self, variant: Variant, path: Path) -> object:
        """The handle of a compiled kernel."""

    @abstractmethod
    def _launch(
        self, kernel: Kernel, grid: Grid, block: Grid, arguments: Sequence[Argument], shared_bytes: int
    ) -> None: ...

    @abstractmethod
    def _begin_capture(self) -> Callable[[], Graph]:
        """Begins to record; the function it returns ends that and gives the graph."""

    # ---- what is checked on every device ----
    def _refuse_in_capture(self, what: str) -> None:
        if self.capturing:
            raise NetcError(
                f"cannot {what} while work is being captured",
                remedy="do it before the capture; values that change are read from device memory",
            )

    def check_memory(self, memory: Memory, verb: str) -> None:
        """Raises NetcError where memory is not this device's, or has been freed."""
        if memory.allocation.device is not self:
            raise NetcError(
                f"cannot {verb} {memory.name}: it is another device's memory",
                expected=self.properties.name,
                found=memory.allocation.device.properties.name,
            )
        if memory.allocation.freed:
            raise NetcError(f"cannot {verb} {memory.name}: it has been freed")

    def _check_copy(self, memory: Memory, nbytes: int, verb: str) -> None:
        self.check_memory(memory, verb)
        if nbytes > memory.nbytes:
            raise NetcError(
                f"cannot {verb} {memory.name}: the sizes differ",
                expected=f"at most {memory.nbytes:,} bytes",
                found=f"{nbytes:,} bytes",
            )
