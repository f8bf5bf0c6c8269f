"""Dropout on the device: the table of kernels/dropout.cu, its launches, and the form that runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.device.form import lay_out_alike
from netc.backends.cuda.launching import Launch, in_order
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES, PACKS, THREADS, blocks_for, pack_of
from netc.backends.cuda.launching.stream import DRAWN, advance_draw, stream_key
from netc.backends.form import NHWC, PLAIN, Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers, Layer, Scratch
from netc.layer.base import count
from netc.layer.dropout import Dropout, SeLUDropout

VARIANTS = {
    (kernel, pack): Variant(f"{kernel} pack {pack}", "dropout.cu", f"{kernel}<{pack}>", THREADS)
    for kernel in ("dropout_forward", "dropout_backward", "dropout_scale")
    for pack in PACKS
}


@dataclass(frozen=True)
class Rule:
    """y = scale x + shift with probability 1 - ratio, `dropped` with probability ratio."""

    ratio: float
    scale: float
    shift: float = 0.0
    dropped: float = 0.0


def forward(
    device: Device,
    rule: Rule,
    x: Memory,
    key: tuple[np.uint64, np.uint64],
    number: Memory,
    y: Memory,
    mask: Memory | None,
) -> Run | None:
    """y for draw `number` (int64) of a stream, which moves on; `mask` gets a bit for each element, 1 where it
    is kept. y may be x."""
    elements, pack = x.nbytes // FLOAT_BYTES, pack_of(x, y)
    numbers = (np.float32(value) for value in (rule.ratio, rule.scale, rule.shift, rule.dropped))
    arguments = (np.int64(elements), x, *numbers, *key, number, y, mask)
    dropping = _launch(device, "dropout_forward", elements, pack, arguments)
    return in_order(dropping, advance_draw(device, number))


def backward(device: Device, rule: Rule, dy: Memory, mask: Memory, dx: Memory) -> Run:
    """dx = scale dy where the mask has a bit, 0 elsewhere; dx may be dy."""
    elements, pack = dy.nbytes // FLOAT_BYTES, pack_of(dy, dx)
    arguments = (np.int64(elements), dy, np.float32(rule.scale), mask, dx)
    return _launch(device, "dropout_backward", elements, pack, arguments)


def scale(device: Device, factor: float, x: Memory, y: Memory) -> Run:
    """y = factor x; y may be x."""
    elements, pack = x.nbytes // FLOAT_BYTES, pack_of(x, y)
    return _launch(device, "dropout_scale", elements, pack, (np.int64(elements), x, np.float32(factor), y))


def _launch(device: Device, kernel: str, elements: int, pack: int, arguments: tuple[Argument, ...]) -> Run:
    return Launch.of(device, VARIANTS[kernel, pack], (blocks_for(device, elements, DRAWN),), arguments)


class DropoutForm(Form):
    """One Dropout or SeLUDropout layer."""

    variant = "dropout"
    backward_bottoms = ()
    backward_tops = ()

    def __init__(self, nodes: Sequence[Node], rule: Rule, drops: bool, mode: Mode, device: Device) -> None:
        super().__init__(nodes)
        self.device, self.rule, self.drops = device, rule, drops
        lay_out_alike(self, self._layout())
        if drops and mode.backward and self.needs_backward:
            bits = -(-count(self.inputs[0].shape) // DRAWN)
            self.saved = {"mask": Scratch((bits,), np.uint8)}

    def _layout(self) -> str:
        """The bottom's, but plain where numbers are drawn for elements that follow each other otherwise."""
        value = self.inputs[0]
        if value.layout == NHWC and self.drops:
            channels, cells = value.shape[1], count(value.shape[2:])
            return NHWC if 1 in (channels, cells) else PLAIN
        return value.layout

    def forward(self, b: Buffers) -> Run | None:
        device, rule = self.device, self.rule
        x, y = device.memory_of(b.bottoms[0]), device.memory_of(b.tops[0])
        if not self.drops:
            return self._scaled(x, y)
        key, number = stream_key(self.node.layer), device.memory_of(b.states["draw"])
        mask = device.memory_of(b.saved["mask"]) if "mask" in b.saved else None
        return forward(device, rule, x, key, number, y, mask)

    def backward(self, b: Buffers) -> Run | None:
        if b.bottom_grads[0] is None:
            return None
        dy, dx = (self.device.memory_of(array) for array in (b.top_grads[0], b.bottom_grads[0]))
        if not self.drops:
            return self._scaled(dy, dx)
        mask = self.device.memory_of(b.saved["mask"])
        return backward(self.device, self.rule, dy, mask, dx)

    def _scaled(self, x: Memory, y: Memory) -> Run | None:
        """What is left to do where nothing is dropped."""
        if self.rule.scale != 1:
            return scale(self.device, self.rule.scale, x, y)
        return None if x.address == y.address else partial(self.device.copy, y, x)


def rule_of(layer: Layer) -> tuple[Rule, bool]:
    """What a layer does, and whether it drops anything in its phase."""
    ratio = layer.options.dropout_ratio
    if isinstance(layer, Dropout):
        return Rule(ratio, layer.factor), layer.drops
    assert isinstance(layer, SeLUDropout)
    drops = "draw" in layer.states
    shift = layer.shift if drops else 0.0
    dropped = layer.factor * layer.options.alpha + layer.shift
    return Rule(ratio, layer.factor if drops else 1.0, shift, dropped), drops


def make_dropout(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    """None for blobs without elements."""
    layer = nodes[0].layer
    if layer.dtype != np.float32 or 0 in layer.bottom_shapes[0]:
        return None
    return DropoutForm(nodes, *rule_of(layer), mode, device)


FORMS: dict[tuple[str, ...], Maker] = {
    (type_,): make_dropout for type_ in ("Dropout", "SeLUDropout", "SeLuDropout")
}
