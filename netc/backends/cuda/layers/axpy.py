"""Axpy on the device, by the kernels of Scale and of the sums over channels."""

from __future__ import annotations

from collections.abc import Sequence

from netc.backends.cuda.device import Device
from netc.backends.cuda.device.form import DeviceForm, fits, layout_of
from netc.backends.cuda.launching import in_order
from netc.backends.cuda.layers.eltwise import add
from netc.backends.cuda.layers.reduce import Sums, sum_channels
from netc.backends.cuda.layers.scale import scale
from netc.backends.form import NHWC, PLAIN, Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers
from netc.layer.base import count


class Axpy(DeviceForm):
    """f = a x + y, each channel of each image with an a of its own."""

    variant = "scale"

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        super().__init__(nodes, device)
        images, channels, cells = self.node.layer.channels  # type: ignore[attr-defined]
        self.axes = (images * channels, cells)
        self.image: int | None = None
        self.sums = Sums.plan(device, "dy x", 1, *self.axes)
        if (layout := layout_of(self.inputs[1:])) == NHWC:
            self.bottom_layouts, self.top_layouts = [PLAIN, layout, layout], [layout]
            self.axes, self.image = (channels, 1), channels * cells
            self.sums = Sums.of_images("dy x", images, cells, channels)
        self.backward_workspace = self.sums.workspace

    def forward(self, b: Buffers) -> Run | None:
        factors, x, y = map(self.memory, b.bottoms)
        top = self.memory(b.tops[0])
        return scale(self.device, *self.axes, x, top, by=factors, plus=y, image=self.image)

    def backward(self, b: Buffers) -> Run | None:
        df = self.memory(b.top_grads[0])
        dfactors, dx, dy = map(self.memory_if, b.bottom_grads)
        runs: list[Run | None] = []
        if dfactors is not None:
            x, shares = self.memory(b.bottoms[1]), self.memory_if(b.workspace.get("shares"))
            runs.append(sum_channels(self.device, self.sums, df, x, shares, dfactors, adds=False))
        if dx is not None:
            factors = self.memory(b.bottoms[0])
            runs.append(scale(self.device, *self.axes, df, dx, by=factors, image=self.image))
        if dy is not None:
            runs.append(add(self.device, [df], dy))
        return in_order(*runs)

    def flops(self) -> int:
        return 2 * count(self.outputs[0].shape)


def make_axpy(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    return Axpy(nodes, device) if fits(nodes) else None


FORMS: dict[tuple[str, ...], Maker] = {("Axpy",): make_axpy}
