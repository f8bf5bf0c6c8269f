"""What a backend offers: memory, arrays over it, forms that run nodes, updates, and the recording of work."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np

from netc.backends.form import PLAIN, Form, Maker, Mode, ReferenceForm, Run
from netc.backends.journal import Journal
from netc.backends.step import Step
from netc.backends.update_spec import Update, UpdateSpec
from netc.data import Source
from netc.errors import NetcError
from netc.graph import Node
from netc.layer import Array, Shape


class Backend(ABC):
    """A place where nets run, and how it computes.

    xp: the array module of its memory, numpy, or cupy for a GPU. math: what products are computed in, "fp32",
    "tf32", "bf16" or "fp16"; deterministic: whether every run gives the same bits. Raises NetcError for a
    math that it does not have. memory_limit: the most bytes that a net's blobs, their gradients and
    workspaces may take together (its parameters come on top); None for any number.
    """

    name: str
    xp: ModuleType
    maths: tuple[str, ...] = ("fp32",)
    scaled_maths: tuple[str, ...] = ()  # those in whose products small gradients vanish: the loss is scaled
    # Whether gradients given anew cost less than clearing all of them at once and adding to them.
    gives_fresh: bool = False
    # Whether forms are made twice, since they then need not wait for each other.
    rehearses: bool = False
    # Whether the fastest of several layouts can be told.
    compares_layouts: bool = True

    def __init__(self, math: str = "fp32", deterministic: bool = False) -> None:
        self.math, self.deterministic = math, deterministic
        self.memory_limit: int | None = None
        if math not in self.maths:
            raise NetcError(
                f"{self.name} does not compute in {math!r}", expected=", ".join(self.maths), found=math
            )

    @property
    @abstractmethod
    def forms(self) -> Mapping[tuple[str, ...], Maker]:
        """The fast forms by the layer types of the chain that they run."""

    @abstractmethod
    def form(self, maker: Maker, nodes: Sequence[Node], mode: Mode) -> Form | None:
        """What a maker makes of a chain; None where it does not fit."""

    @abstractmethod
    def allocate(self, nbytes: int, name: str = "memory") -> Array:
        """Zeroed bytes, aligned for vector loads. Raises NetcError where there is less memory."""

    def free_bytes(self) -> int | None:
        """How much memory can still be allocated; None where that is not known beforehand."""
        return None

    def out_of_memory(self, planned: int, free: int) -> NetcError:
        """The error for a plan of `planned` bytes where `free` are left."""
        return NetcError(
            "the net does not fit into memory",
            expected=f"at most {free:,} bytes",
            found=f"{planned:,} bytes planned",
            remedy="a smaller batch_size, or smaller inputs",
        )

    def array(self, memory: Array, offset: int, shape: Shape, dtype: Any) -> Array:
        """A view of memory from a byte offset on."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return memory[offset : offset + nbytes].view(dtype).reshape(shape)

    @abstractmethod
    def read(self, array: Array) -> np.ndarray:
        """An array's values on the host: the array itself where it lies there, a copy elsewhere."""

    @abstractmethod
    def write(self, array: Array, values: np.ndarray) -> None:
        """Copies values from the host into an array."""

    @abstractmethod
    def view(self, array: Array) -> np.ndarray:
        """An array as its user reads and writes it on the host. What is written counts from the next `push`
        on; after that it must be asked for again."""

    @abstractmethod
    def push(self) -> None:
        """Makes what users have written into views count."""

    def layouts(self, keep_all: bool) -> Sequence[str]:
        """The layouts that forms may be asked to work in, of which the fastest is taken; the first where they
        are not compared. keep_all: users look at every blob."""
        return (PLAIN,)

    def layout_facts(self) -> Sequence[str]:
        """What it hangs on, beside the net and the processor, which layout is the fastest."""
        return ()

    def synchronise(self) -> None:  # noqa: B027 -- most do their work at once
        """Returns when all work asked for so far is done."""

    def elements(self, shape: Shape, layout: str) -> int:
        """How many elements a value takes in a layout, padding included."""
        return math.prod(shape)

    def lie_alike(self, shape: Shape, one: str, other: str) -> bool:
        """Whether forms that want a value in one layout can be given it in the other as it lies."""
        return one == other

    def reorder(self, node: Node, served: Node) -> Form:
        """The form of a Reorder node, which was put in for the node it serves."""
        return ReferenceForm(node, self.xp, served)

    def active(self) -> AbstractContextManager[None]:
        """Within it, functions of `xp` work where this backend's arrays lie."""
        return nullcontext()

    def preparing(self) -> AbstractContextManager[None]:
        """Within it forms are bound: what they need is made ready at the same time, and is so at its end."""
        return nullcontext()

    def record(self, steps: Sequence[Step]) -> Sequence[Step]:
        """The same work in fewer steps, where the backend can record it once and replay it."""
        return steps

    def trace(self, step: Step) -> Sequence[str]:
        """What a step asks for, piece by piece, for those who look at the program; it is not run."""
        return ()

    def feed(self, source: Source, tops: Sequence[Array]) -> Run | None:
        """What brings the next batch of a source into the arrays of its tops, each time it runs.

        None where batches come finished and are written.
        """
        return None

    def make_update(
        self,
        spec: UpdateSpec,
        data: Array,
        grad: Array,
        history: Sequence[Array],
        loss_scale: Array | None = None,
    ) -> Update | None:
        """The update of all parameters as a fast pass over their flat arrays; None where there is none.

        loss_scale: two numbers that say, at the time it runs, how many times too large the gradients are, as
        `netc.backends.loss_scale` has them.
        """
        return None

    def make_journal(self, width: int, notes: Sequence[Array] = ()) -> Journal | None:
        """A journal of rows of `width` numbers, always beginning with those of `notes`.

        None where work is done when the call that asks for it returns.
        """
        return None

    def close(self) -> None:  # noqa: B027 -- most hold nothing that must be given back early
        """Gives back what the backend holds."""
