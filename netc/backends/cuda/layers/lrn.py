"""Local response normalisation on the device: the table of kernels/lrn.cu, its launches and its forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Argument, Device, Grid, Memory
from netc.backends.cuda.device.form import DeviceForm, fits
from netc.backends.cuda.launching import Launch, in_order
from netc.backends.cuda.launching.division import divisor
from netc.backends.cuda.launching.elementwise import PACKS, THREADS, blocks_for, pack_of
from netc.backends.form import NHWC, PLAIN, Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers, Scratch
from netc.layer.base import Shape, count
from netc.layer.norm import LRN

# Windows over channels that code is made for, and the places that a thread takes at once.
ACROSS = ((5, 4), (5, 1), (3, 1), (7, 1), (9, 1))
THREADS_OF_PROCESSOR = 1024  # so many lines at least keep a processor busy
LEAST_CHANNELS = 32  # of a part: what is read beyond its ends is little beside it
VARIANTS: dict[Any, Variant] = {
    **{
        (along, direction, size, pack): Variant(
            f"lrn_{along}_{direction} {size} pack {pack}",
            "lrn.cu",
            f"lrn_{along}_{direction}<{size}, {pack}>",
            THREADS,
        )
        for along in ("across", "last")
        for direction in ("forward", "backward")
        for size, pack in ACROSS
    },
    **{
        kernel: Variant(kernel, "lrn.cu", f"{kernel}<>", THREADS)
        for kernel in ("lrn_within_forward", "lrn_within_ratios", "lrn_within_backward")
    },
}


@dataclass(frozen=True)
class Rule:
    """s = k + weight (sum of x^2 over a window of `size` channels, or size x size cells), y = x s^-beta."""

    size: int
    k: float
    weight: float
    beta: float

    def numbers(self) -> list[Argument]:
        return [np.float32(number) for number in (self.k, self.weight, self.beta)]


def _places(device: Device, shape: Shape, pack: int) -> tuple[Grid, list[Argument]]:
    """The grid, and what says how lines of channels are dealt out to it."""
    images, channels, *plane = shape
    packs = images * count(plane) // pack
    wanted = -(-THREADS_OF_PROCESSOR * device.properties.processors // packs)
    parts = max(1, min(wanted, channels // LEAST_CHANNELS))
    part_channels = -(-channels // parts)
    arguments: list[Argument] = [np.uint32(packs), *divisor(count(plane) // pack)]
    arguments += [np.int32(channels), np.int32(part_channels)]
    return (-(-packs // THREADS), -(-channels // part_channels)), arguments


def _packs_of_cells(shape: Shape, pack: int, overlap: int) -> tuple[Grid, list[Argument]]:
    """The same of channels that lie side by side; blocks overlap by so many packs at both ends."""
    packs = count(shape) // pack
    return (-(-packs // (THREADS - 2 * overlap)),), [np.uint32(packs), *divisor(shape[1] // pack)]


def _over_channels(
    device: Device, direction: str, rule: Rule, shape: Shape, layout: str, *memories: Memory
) -> Run:
    """Binds a kernel over windows of channels."""
    neighbours = shape[1] if layout == NHWC else count(shape[2:])
    packs = neighbours % PACKS[0] == 0 and (rule.size, PACKS[0]) in ACROSS
    pack = pack_of(*memories) if packs else 1
    if layout == NHWC:
        overlap = -(-(rule.size // 2) // pack) if direction == "backward" else 0
        along, (grid, places) = "last", _packs_of_cells(shape, pack, overlap)
    else:
        along, (grid, places) = "across", _places(device, shape, pack)
    variant = VARIANTS[along, direction, rule.size, pack]
    return Launch.of(device, variant, grid, (*places, *rule.numbers(), *memories))


def across(device: Device, rule: Rule, shape: Shape, x: Memory, y: Memory, layout: str = PLAIN) -> Run:
    """y over windows of channels; the size must be one of ACROSS."""
    return _over_channels(device, "forward", rule, shape, layout, x, y)


def across_backward(
    device: Device, rule: Rule, shape: Shape, x: Memory, dy: Memory, dx: Memory, layout: str = PLAIN
) -> Run:
    """dx over windows of channels."""
    return _over_channels(device, "backward", rule, shape, layout, x, dy, dx)


def _planes(rule: Rule, shape: Shape, layout: str) -> list[Argument]:
    channels, height, width = shape[1:]
    step = channels if layout == NHWC else 1
    numbers = (np.float32(rule.weight), np.float32(rule.beta))
    sizes = (np.uint32(count(shape)), *divisor(height), *divisor(width), *divisor(step))
    return [*sizes, np.int32(rule.size // 2), *numbers]


def within(
    device: Device,
    rule: Rule,
    shape: Shape,
    x: Memory,
    scale: Memory | None,
    y: Memory,
    layout: str = PLAIN,
) -> Run:
    """y over windows of cells, k being 1; `scale` gets s."""
    grid = (blocks_for(device, count(shape), 1),)
    arguments = (*_planes(rule, shape, layout), x, scale, y)
    return Launch.of(device, VARIANTS["lrn_within_forward"], grid, arguments)


def within_backward(
    device: Device,
    rule: Rule,
    shape: Shape,
    x: Memory,
    scale: Memory,
    dy: Memory,
    ratios: Memory,
    dx: Memory,
    layout: str = PLAIN,
) -> Run | None:
    """dx over windows of cells; `ratios` is room for as many floats."""
    elements = count(shape)
    grid = (blocks_for(device, elements, 1),)
    first = (np.uint32(elements), np.float32(rule.beta), x, scale, dy, ratios)
    second = (*_planes(rule, shape, layout), x, scale, ratios, dy, dx)
    return in_order(
        Launch.of(device, VARIANTS["lrn_within_ratios"], grid, first),
        Launch.of(device, VARIANTS["lrn_within_backward"], grid, second),
    )


class AcrossForm(DeviceForm):
    """LRN across channels."""

    variant = "lrn across"

    def __init__(self, nodes: Sequence[Node], rule: Rule, device: Device) -> None:
        super().__init__(nodes, device)
        self.rule, self.shape, self.saved = rule, self.inputs[0].shape, {}
        self.layout = self.keep_layout()

    def forward(self, b: Buffers) -> Run:
        x, y = self.memory(b.bottoms[0]), self.memory(b.tops[0])
        return across(self.device, self.rule, self.shape, x, y, self.layout)

    def backward(self, b: Buffers) -> Run | None:
        if b.bottom_grads[0] is None:
            return None
        x, dy, dx = (self.memory(array) for array in (b.bottoms[0], b.top_grads[0], b.bottom_grads[0]))
        return across_backward(self.device, self.rule, self.shape, x, dy, dx, self.layout)


class WithinForm(DeviceForm):
    """LRN within channels."""

    variant = "lrn within"

    def __init__(self, nodes: Sequence[Node], rule: Rule, mode: Mode, device: Device) -> None:
        super().__init__(nodes, device)
        self.rule, self.shape, self.layout = rule, self.inputs[0].shape, self.keep_layout()
        self.saved = {"scale": Scratch(self.shape)} if mode.backward and self.needs_backward else {}
        self.backward_workspace = {"ratios": Scratch(self.shape)}

    def forward(self, b: Buffers) -> Run:
        x, y, scale = self.memory(b.bottoms[0]), self.memory(b.tops[0]), self.memory_if(b.saved.get("scale"))
        return within(self.device, self.rule, self.shape, x, scale, y, self.layout)

    def backward(self, b: Buffers) -> Run | None:
        if b.bottom_grads[0] is None:
            return None
        x, dy, dx = (self.memory(array) for array in (b.bottoms[0], b.top_grads[0], b.bottom_grads[0]))
        scale, ratios = self.memory(b.saved["scale"]), self.memory(b.workspace["ratios"])
        return within_backward(self.device, self.rule, self.shape, x, scale, dy, ratios, dx, self.layout)


def make_lrn(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    """None for windows of more than 9 channels."""
    layer = nodes[0].layer
    assert isinstance(layer, LRN)
    if not fits(nodes):
        return None
    rule = Rule(layer.options.local_size, float(layer.k), float(layer.weight), layer.options.beta)
    if len(layer.axes) > 1:
        return WithinForm(nodes, rule, mode, device)
    return AcrossForm(nodes, rule, device) if (rule.size, 1) in ACROSS else None


FORMS: dict[tuple[str, ...], Maker] = {("LRN",): make_lrn}
