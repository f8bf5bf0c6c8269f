"""Memory and steps on the CPU."""

from __future__ import annotations

import os
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from netc.backends.step import Step
from netc.errors import NetcError
from netc.graph import Node
from netc.layer import Buffers, SourceLayer
from netc.passes.memory import ALIGNMENT


class CpuBackend:
    """Allocates NumPy memory and turns nodes into steps over it."""

    name = "cpu"
    xp: ModuleType = np
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # bytes of memory

    def allocate(self, nbytes: int) -> np.ndarray:
        """Zeroed bytes, aligned for vector loads. Raises NetcError where the machine has less memory."""
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

    def array(self, memory: np.ndarray, offset: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A view of memory from a byte offset on."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return memory[offset : offset + nbytes].view(dtype).reshape(shape)

    def forward_step(self, node: Node, buffers: Buffers) -> Step | None:
        """The step of a node's forward; None where there is nothing to do."""
        if node.layer.shares_data or isinstance(node.layer, SourceLayer):
            return None
        return Step(node, "forward", "reference", partial(node.layer.forward, self.xp, buffers))

    def backward_step(self, node: Node, buffers: Buffers) -> Step | None:
        """The step of a node's backward; None where there is nothing to do."""
        wanted = any(grad is not None for grad in (*buffers.bottom_grads, *buffers.param_grads))
        if node.layer.shares_diff or not wanted:
            return None
        return Step(node, "backward", "reference", partial(node.layer.backward, self.xp, buffers))
