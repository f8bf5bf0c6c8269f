"""Im2col on the device: the table of kernels/im2col.cu, its launches, and the form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.device.form import DeviceForm, fits
from netc.backends.cuda.launching import Launch
from netc.backends.cuda.launching.division import divisor
from netc.backends.cuda.launching.elementwise import THREADS, blocks_for
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers, Shape
from netc.layer.base import count
from netc.layer.window import Window

VARIANTS = {name: Variant(name, "im2col.cu", f"{name}<1>", THREADS) for name in ("im2col", "col2im")}


def im2col(
    device: Device, planes: int, window: Window, spatial: Shape, output: Shape, x: Memory, y: Memory
) -> Run:
    """y (planes, R, S, P, Q) = what each output's window reads of x (planes, H, W); two spatial axes."""
    n = planes * count(window.kernel) * count(output)
    arguments: list[Argument] = [np.uint32(n)]
    for size in (*window.kernel, *output):
        arguments += divisor(size)
    for numbers in zip(spatial, window.stride, window.pad, window.dilation, strict=True):
        arguments += map(np.int32, numbers)
    return Launch.of(device, VARIANTS["im2col"], (blocks_for(device, n, 1),), [*arguments, x, y])


def col2im(
    device: Device, planes: int, window: Window, spatial: Shape, output: Shape, y: Memory, x: Memory
) -> Run:
    """x (planes, H, W) = the sum of y (planes, R, S, P, Q) over the places that read each cell."""
    n = planes * count(spatial)
    arguments: list[Argument] = [np.uint32(n), *divisor(spatial[0]), *divisor(spatial[1])]
    arguments += map(np.int32, (*window.kernel, *output))
    for stride, pad, dilation in zip(window.stride, window.pad, window.dilation, strict=True):
        arguments += [*divisor(stride), np.int32(pad), np.int32(dilation)]
    return Launch.of(device, VARIANTS["col2im"], (blocks_for(device, n, 1),), [*arguments, y, x])


class Im2col(DeviceForm):
    """One spatial axis is taken for two, the first of one cell."""

    variant = "im2col"

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        super().__init__(nodes, device)
        layer = self.node.layer
        window: Window = layer.window  # type: ignore[attr-defined]
        missing = 2 - len(layer.spatial)  # type: ignore[attr-defined]
        one, none = (1,) * missing, (0,) * missing
        self.window = Window(
            one + window.kernel, one + window.stride, none + window.pad, one + window.dilation
        )
        self.planes: int = layer.planes  # type: ignore[attr-defined]
        self.spatial: Shape = one + layer.spatial  # type: ignore[attr-defined]
        self.output: Shape = one + layer.output  # type: ignore[attr-defined]

    def forward(self, b: Buffers) -> Run | None:
        x, y = self.memory(b.bottoms[0]), self.memory(b.tops[0])
        return im2col(self.device, self.planes, self.window, self.spatial, self.output, x, y)

    def backward(self, b: Buffers) -> Run | None:
        dy, dx = self.memory(b.top_grads[0]), self.memory(b.bottom_grads[0])
        return col2im(self.device, self.planes, self.window, self.spatial, self.output, dy, dx)


def make_im2col(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    """None for more than two spatial axes."""
    if not fits(nodes) or len(nodes[0].layer.spatial) not in (1, 2):  # type: ignore[attr-defined]
        return None
    return Im2col(nodes, device)


FORMS: dict[tuple[str, ...], Maker] = {("Im2col",): make_im2col}
