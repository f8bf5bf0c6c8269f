"""Numbers of channels on the device: the table of kernels/scale.cu, its launches, and the forms of Scale and
Bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.device.form import DeviceForm, fits
from netc.backends.cuda.launching import Launch, in_order
from netc.backends.cuda.launching.division import divisor
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES, PACKS, THREADS, blocks_for, pack_of
from netc.backends.cuda.layers.eltwise import add, multiply
from netc.backends.cuda.layers.reduce import Sums, sum_channels
from netc.backends.form import NHWC, PLAIN, Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers
from netc.layer.base import count

NO_RELU: Final = 1.0  # as a negative slope

VARIANTS = {
    name: Variant(name, "scale.cu", f"{name}<{PACKS[0]}>", THREADS)
    for name in ("scale", "prelu_forward", "prelu_backward")
}


def scale(
    device: Device,
    channels: int,
    inner: int,
    x: Memory,
    y: Memory,
    *,
    by: Memory | None = None,
    bias: Memory | None = None,
    plus: Memory | None = None,
    kept: Memory | None = None,
    slope: float = NO_RELU,
    image: int | None = None,
) -> Run:
    """y = relu(by x + bias + plus) over arrays (outer, channels, inner).

    by, bias: a number for each channel; plus: an array; what is None is left out. kept: a copy of x. y may be
    x. slope: what becomes of negative results; 1 leaves them alone. image: after so many elements the numbers
    are those of the next image.
    """
    images = (np.uint32(0), np.uint64(0)) if image is None else divisor(image)
    sizes = (*_sizes(channels, inner, x, y, plus, kept), *images)
    return _prepare(device, "scale", x, (*sizes, x, by, bias, plus, y, kept, np.float32(slope)))


def prelu_forward(
    device: Device, channels: int, inner: int, x: Memory, slopes: Memory, y: Memory, kept: Memory | None
) -> Run:
    """y = x where it is positive, its channel's slope times x elsewhere; y may be x. kept: a copy of x."""
    sizes = _sizes(channels, inner, x, y, kept)
    return _prepare(device, "prelu_forward", x, (*sizes, x, slopes, y, kept))


def prelu_backward(
    device: Device, channels: int, inner: int, x: Memory, slopes: Memory, dy: Memory, dx: Memory
) -> Run:
    """dx = dy where x is positive, its channel's slope times dy elsewhere; dx may be dy."""
    sizes = _sizes(channels, inner, x, dy, dx)
    return _prepare(device, "prelu_backward", x, (*sizes, x, slopes, dy, dx))


def _sizes(channels: int, inner: int, x: Memory, *others: Memory | None) -> tuple[Argument, ...]:
    n, packed = x.nbytes // FLOAT_BYTES, pack_of(x, *others) > 1
    return (np.uint32(n), np.bool_(packed), *divisor(inner), *divisor(channels))


def _prepare(device: Device, name: str, x: Memory, arguments: Sequence[Argument]) -> Run:
    pack = PACKS[0] if arguments[1] else PACKS[1]
    return Launch.of(device, VARIANTS[name], (blocks_for(device, x.nbytes // FLOAT_BYTES, pack),), arguments)


class Broadcast(DeviceForm):
    """Scale or Bias: a factor, a summand, or both, from parameters or from bottom 1."""

    def __init__(self, nodes: Sequence[Node], mode: Mode, device: Device) -> None:
        super().__init__(nodes, device)
        self.variant = self.node.type.lower()
        layer = self.node.layer
        self.outer, self.channels, self.inner = layer.axes  # type: ignore[attr-defined]
        self.image: int | None = None
        self._lay_out()
        self.scales = self.node.type == "Scale"
        self.has_bias = layer.options.bias_term if self.scales else True
        self.given = len(self.inputs) == 2  # the operand is bottom 1
        term = ("dy x, dy" if self.has_bias else "dy x") if self.scales else "dy"
        self.sums = (
            Sums.plan(device, term, self.outer, self.channels, self.inner)
            if self.image is None
            else Sums.of_images(term, self.outer, self.image // self.channels, self.channels)
        )
        self.backward_workspace = self.sums.workspace
        if not (mode.backward and self.needs_backward):
            self.saved = {}

    def _lay_out(self) -> None:
        """All lies as bottom 0 does where each of its channels has a number, the images' own or not."""
        x = self.inputs[0]
        if x.layout != NHWC:
            return
        images, channels, *sides = x.shape
        if (self.outer, self.channels) == (images, channels):
            self.outer = images * count(sides)
        elif (self.outer, self.channels) == (1, images * channels):
            self.outer, self.image = images, channels * count(sides)
        else:
            return
        self.channels, self.inner = channels, 1
        self.bottom_layouts = [NHWC, PLAIN][: len(self.inputs)]
        self.top_layouts = [NHWC]

    def forward(self, b: Buffers) -> Run | None:
        operand = self.memory(b.bottoms[1] if self.given else b.params[0])
        bias = self.memory(b.params[-1]) if self.scales and self.has_bias else None
        x, y = self.memory(b.bottoms[0]), self.memory(b.tops[0])
        kept = self.memory_if(b.saved.get("bottom"))
        by, bias = (operand, bias) if self.scales else (None, operand)
        axes = self.channels, self.inner
        return scale(self.device, *axes, x, y, by=by, bias=bias, kept=kept, image=self.image)

    def backward(self, b: Buffers) -> Run | None:
        return in_order(*self._sums(b), self._left_over(b), self._bottom_gradient(b))

    def _sums(self, b: Buffers) -> list[Run | None]:
        """The gradients of the operand and of Scale's bias: written for bottom 1, added for parameters."""
        operand = self.memory_if(b.bottom_grads[1] if self.given else b.param_grads[0])
        bias = self.memory_if(b.param_grads[-1]) if self.scales and self.has_bias else None
        dy, shares = self.memory(b.top_grads[0]), self.memory_if(b.workspace.get("shares"))
        x = self._bottom(b) if self.scales else None
        targets = [(operand, None), (None, bias)] if self.given else [(operand, bias)]
        return [
            sum_channels(
                self.device, self.sums, dy, x, shares, *pair, adds=not (self.given and pair[0] is not None)
            )
            for pair in targets
            if pair != (None, None)
        ]

    def _bottom(self, b: Buffers) -> Memory:
        return self.memory(b.saved["bottom"] if "bottom" in b.saved else b.bottoms[0])

    def _left_over(self, b: Buffers) -> Run | None:
        """Caffe's product of x and dy in a gradient that nobody wants."""
        wanted = b.bottom_grads[1] if self.given else b.param_grads[0] if b.param_grads else None
        if 0 not in b.leftovers or wanted is None:
            return None
        factors = [self.memory(b.top_grads[0]), self._bottom(b)]
        return multiply(self.device, factors, self.memory(b.leftovers[0]))

    def _bottom_gradient(self, b: Buffers) -> Run | None:
        if b.bottom_grads[0] is None:
            return None
        dy, dx = self.memory(b.top_grads[0]), self.memory(b.bottom_grads[0])
        if self.scales:
            factor = self.memory(b.bottoms[1] if self.given else b.params[0])
            return scale(self.device, self.channels, self.inner, dy, dx, by=factor, image=self.image)
        if self.node.layer.runs_in_place:
            return None
        return add(self.device, [dy], dx)

    def flops(self) -> int:
        return (self.scales + self.has_bias) * count(self.outputs[0].shape)


def make_broadcast(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    return Broadcast(nodes, mode, device) if fits(nodes) else None


FORMS: dict[tuple[str, ...], Maker] = {("Scale",): make_broadcast, ("Bias",): make_broadcast}
