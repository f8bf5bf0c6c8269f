"""Values and gradients on their way from one layout to another on the device, by the kernels of Permute."""

from __future__ import annotations

from netc.backends.cuda.device import Device, Memory
from netc.backends.cuda.device.form import DeviceForm
from netc.backends.cuda.layers.permute import permute
from netc.backends.form import NHWC, Run
from netc.graph import Node
from netc.layer import Buffers
from netc.layer.base import count


class ReorderForm(DeviceForm):
    """y = x in the layout that the top's value has; serves the node that reads it."""

    def __init__(self, node: Node, served: Node, device: Device) -> None:
        super().__init__((node,), device)
        self._served = served
        source, target = node.inputs[0], node.outputs[0]
        self.bottom_layouts, self.top_layouts = (source.layout,), (target.layout,)
        self.variant = f"reorder {source.layout} to {target.layout}"
        images, channels, *sides = source.shape
        self.plain, self.last = (images, channels, count(sides)), (images, count(sides), channels)

    @property
    def served(self) -> Node:
        return self._served

    def forward(self, b: Buffers) -> Run | None:
        return self._turn(self.memory(b.bottoms[0]), self.memory(b.tops[0]), self.outputs[0].layout)

    def backward(self, b: Buffers) -> Run | None:
        if b.bottom_grads[0] is None:
            return None
        dy, dx = self.memory(b.top_grads[0]), self.memory(b.bottom_grads[0])
        return self._turn(dy, dx, self.inputs[0].layout)

    def _turn(self, source: Memory, target: Memory, layout: str) -> Run | None:
        """From the other layout into this one."""
        return permute(self.device, self.plain if layout == NHWC else self.last, (0, 2, 1), source, target)
