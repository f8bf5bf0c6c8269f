"""The CPU: NumPy's memory, oneDNN's primitives where they fit, layers' own meaning elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np

from netc.backends.backend import Backend
from netc.backends.form import Form, Maker, Mode
from netc.errors import NetcError
from netc.graph import Node
from netc.passes.memory import ALIGNMENT


class CpuBackend(Backend):
    """Allocates NumPy memory."""

    name = "cpu"
    xp: ModuleType = np
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # bytes of memory

    @property
    def forms(self) -> Mapping[tuple[str, ...], Maker]:
        return {}

    def form(self, maker: Maker, nodes: Sequence[Node], mode: Mode) -> Form | None:
        return maker(nodes, mode, None)

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
        array[...] = values

    def view(self, array: np.ndarray) -> np.ndarray:
        return array

    def push(self) -> None:
        """Nothing: views are the arrays themselves."""
