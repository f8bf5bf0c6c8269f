"""The CPU: NumPy's memory, oneDNN's primitives where they fit, layers' own meaning elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np

from netc.backends.backend import Backend
from netc.backends.cpu.bf16 import BF16, multiplies_bf16, say_once_that_factors_are_rounded
from netc.backends.cpu.blas import limit_blas_threads
from netc.backends.cpu.forms import FORMS
from netc.backends.cpu.layout import elements_of
from netc.backends.cpu.onednn import open_engine
from netc.backends.cpu.onednn.library import VARIABLE, WHEEL
from netc.backends.cpu.recording import record_steps
from netc.backends.cpu.reorder import ReorderForm
from netc.backends.cpu.threads import set_threads
from netc.backends.cpu.update import make_update
from netc.backends.form import BLOCKED, NHWC, PLAIN, Form, Maker, Mode
from netc.backends.step import Step
from netc.backends.update_spec import Update, UpdateSpec
from netc.cores import thread_count
from netc.errors import NetcError
from netc.graph import Node
from netc.layer import Shape
from netc.passes.memory import ALIGNMENT


class CpuBackend(Backend):
    """NumPy's memory and, where oneDNN is installed, its primitives. fast: whether to use them.

    Raises NetcError for bf16 without them.
    """

    name = "cpu"
    maths = ("fp32", BF16)
    gives_fresh = True
    xp: ModuleType = np
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # bytes of memory

    def __init__(self, math: str = "fp32", deterministic: bool = False, *, fast: bool = True) -> None:
        super().__init__(math, deterministic)
        self._engine = open_engine() if fast else None
        if self._engine is not None:
            limit_blas_threads(1)
            set_threads(thread_count())
        if math == BF16:
            self._check_bf16()

    def _check_bf16(self) -> None:
        if self._engine is None:
            raise NetcError(
                "without oneDNN the CPU computes in fp32 only",
                expected="-math fp32, or oneDNN",
                found="-math bf16",
                remedy=f"pip install {WHEEL}, without {VARIABLE}=off in the environment",
            )
        if not multiplies_bf16(self._engine):
            say_once_that_factors_are_rounded()

    @property
    def forms(self) -> Mapping[tuple[str, ...], Maker]:
        return FORMS if self._engine else {}

    def form(self, maker: Maker, nodes: Sequence[Node], mode: Mode) -> Form | None:
        return maker(nodes, mode, self._engine)

    def layouts(self, keep_all: bool) -> Sequence[str]:
        return (PLAIN,) if keep_all or self._engine is None else (NHWC, BLOCKED)

    def elements(self, shape: Shape, layout: str) -> int:
        return elements_of(shape, layout, self._engine.block if self._engine else 1)

    def reorder(self, node: Node, served: Node) -> Form:
        assert self._engine is not None, "without oneDNN every value lies plain"
        return ReorderForm(node, served, self._engine)

    def allocate(self, nbytes: int, name: str = "memory") -> np.ndarray:
        if nbytes > self.installed:
            raise NetcError(
                "the net does not fit into this machine's memory",
                expected=f"at most {self.installed:,} bytes",
                found=f"{nbytes:,} bytes in one piece",
                remedy="a smaller batch_size, smaller inputs, or fewer outputs in the largest layer",
            )
        raw = np.zeros(nbytes + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        return raw[start : start + nbytes]

    def read(self, array: np.ndarray) -> np.ndarray:
        return array

    def write(self, array: np.ndarray, values: np.ndarray) -> None:
        arrays = array, values
        alike = array.dtype == values.dtype and array.shape == values.shape and array.size
        if not alike or not all(each.flags.c_contiguous for each in arrays):
            array[...] = values
            return
        # NumPy would let go of Python's lock, and then wait until a thread that reads data lets go of it.
        target, source = (each.reshape(-1).data.cast("B") for each in arrays)
        target[:] = source

    def view(self, array: np.ndarray) -> np.ndarray:
        return array

    def push(self) -> None:
        """Nothing: views are the arrays themselves."""

    def record(self, steps: Sequence[Step]) -> Sequence[Step]:
        return record_steps(steps)

    def make_update(
        self,
        spec: UpdateSpec,
        data: np.ndarray,
        grad: np.ndarray,
        history: Sequence[np.ndarray],
        loss_scale: np.ndarray | None = None,
    ) -> Update | None:
        return make_update(spec, data, grad, history) if loss_scale is None else None
