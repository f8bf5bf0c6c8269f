"""Crop on the device: a box is copied out, and back into zeros."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from netc.backends.cuda.device import Device
from netc.backends.cuda.device.form import DeviceForm, fits
from netc.backends.cuda.launching import in_order
from netc.backends.cuda.layers.permute import AXES, Axis, backwards, copy_strided, part_from, strides_of
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers


class Crop(DeviceForm):
    """The box that bottom 1 is as large as."""

    variant = "copy_strided"

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        super().__init__(nodes, device)
        shape, top = self.inputs[0].shape, self.outputs[0].shape
        # Bottom 1, of which nobody reads a value, lies as it likes.
        self.bottom_layouts = [value.layout for value in self.inputs]
        layout = self.bottom_layouts[0]
        self.top_layouts = [layout]
        strides, apart = strides_of(shape, layout), strides_of(top, layout)
        self.axes = [Axis(size, x, y) for size, x, y in zip(top, strides, apart, strict=True)]
        box: Sequence[slice] = self.node.layer.box  # type: ignore[attr-defined]
        starts = [cut.start or 0 for cut in box]
        self.start = sum(first * stride for first, stride in zip(starts, strides, strict=False))

    def forward(self, b: Buffers) -> Run | None:
        x, y = self.memory(b.bottoms[0]), self.memory(b.tops[0])
        return copy_strided(self.device, self.axes, part_from(x, self.start), y)

    def backward(self, b: Buffers) -> Run | None:
        zeroed = [self.memory(grad) for grad in b.bottom_grads if grad is not None]
        runs: list[Run | None] = [partial(self.device.fill, grad) for grad in zeroed]
        if b.bottom_grads[0] is not None:
            dx = part_from(self.memory(b.bottom_grads[0]), self.start)
            runs.append(copy_strided(self.device, backwards(self.axes), self.memory(b.top_grads[0]), dx))
        return in_order(*runs)


def make_crop(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    """None where the box lies among more than 5 runs of axes."""
    return Crop(nodes, device) if fits(nodes) and len(nodes[0].inputs[0].shape) <= AXES else None


FORMS: dict[tuple[str, ...], Maker] = {("Crop",): make_crop}
