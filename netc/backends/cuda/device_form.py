"""Forms that run on a device: memory in place of arrays, and what their kernels can take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from netc.backends.cuda.device import Device
from netc.backends.cuda.memory import Memory
from netc.backends.form import Form
from netc.graph import Node
from netc.layer import Array
from netc.layer.base import count

MOST_ELEMENTS: Final = 1 << 31  # of an array that kernels take apart with 32-bit indices


class DeviceForm(Form):
    """A form of one device. Reads and saves what its first layer says, unless it says otherwise itself."""

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        super().__init__(nodes)
        self.device = device
        layer = self.node.layer
        self.saved = layer.saved
        self.backward_bottoms, self.backward_tops = layer.backward_bottoms, layer.backward_tops

    def memory(self, array: Array) -> Memory:
        """Where an array lies."""
        return self.device.memory_of(array)

    def memory_if(self, array: Array | None) -> Memory | None:
        """Where an array lies that may be missing."""
        return None if array is None else self.device.memory_of(array)


def fits(nodes: Sequence[Node]) -> bool:
    """Whether kernels of 32-bit floats and indices can run these nodes, whose blobs must not be empty."""
    values = [value for node in nodes for value in (*node.inputs, *node.outputs)]
    sizes = [count(value.shape) for value in values]
    return all(node.layer.dtype == np.float32 for node in nodes) and all(0 < n < MOST_ELEMENTS for n in sizes)
