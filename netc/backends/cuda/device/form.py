"""Forms that run on a device: memory in place of arrays, and what their kernels can take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from netc.backends.cuda.device.device import Device
from netc.backends.cuda.device.memory import Memory
from netc.backends.form import NHWC, PLAIN, Form
from netc.graph import Node, Value
from netc.layer import Array, Shape
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

    def keep_layout(self) -> str:
        """Says that all image-shaped bottoms and tops lie as most of the bottoms do."""
        layout = layout_of(self.inputs)
        lay_out_alike(self, layout)
        return layout

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


def layout_of(values: Sequence[Value]) -> str:
    """The layout that most of these values have, the first's of several that as many have."""
    layouts = [value.layout for value in values]
    return max(layouts, key=layouts.count)


def lay_out_alike(form: Form, layout: str) -> None:
    """Says that a form's image-shaped bottoms and tops lie so; those without four axes lie plain."""
    form.bottom_layouts, form.top_layouts = (
        [layout if len(value.shape) == 4 else PLAIN for value in values]
        for values in (form.inputs, form.outputs)
    )


def in_memory(shape: Shape, layout: str) -> Shape:
    """The sizes of a value's axes in the order in which they lie."""
    if layout != NHWC:
        return shape
    n, c, h, w = shape
    return n, h, w, c


def around_axis(shape: Shape, axis: int, layout: str) -> tuple[int, int]:
    """How many elements lie before an axis and behind it, as in (outer, axis, inner)."""
    order = in_memory(tuple(range(len(shape))), layout)
    place = order.index(axis)
    sizes = in_memory(shape, layout)
    return count(sizes[:place]), count(sizes[place + 1 :])
