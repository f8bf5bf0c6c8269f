"""Elements in another order on the device: the table of kernels/permute.cu, its launches, and the forms of
Permute and ShuffleChannel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.device.form import DeviceForm, fits
from netc.backends.cuda.launching import Launch
from netc.backends.cuda.launching.division import divisor
from netc.backends.cuda.launching.elementwise import (
    BLOCKS_PER_PROCESSOR,
    FLOAT_BYTES,
    PACKS,
    THREADS,
    blocks_for,
    pack_of,
)
from netc.backends.form import NHWC, PLAIN, Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers, Shape
from netc.layer.base import count

AXES: Final = 5  # that copy_strided can tell apart
TILE: Final = 32
LEAST_TURNED: Final = 8  # cells along either side from which turning tiles beats reading across lines

STRIDED = {
    pack: Variant(f"copy_strided pack {pack}", "permute.cu", f"copy_strided<{pack}>", THREADS)
    for pack in PACKS
}
TILES = Variant("copy_tiles", "permute.cu", f"copy_tiles<{TILE}>", TILE * 8)
VARIANTS = (*STRIDED.values(), TILES)


@dataclass(frozen=True)
class Axis:
    """One axis of a copy: how many places it has, and how far apart two of them are in x and in y."""

    size: int
    x: int
    y: int


def contiguous(shape: Shape) -> tuple[int, ...]:
    """The strides of an array of this shape, in elements."""
    return tuple(count(shape[i + 1 :]) for i in range(len(shape)))


def strides_of(shape: Shape, layout: str) -> tuple[int, ...]:
    """The same of a value that lies so."""
    if layout != NHWC:
        return contiguous(shape)
    _, c, h, w = shape
    return c * h * w, 1, c * w, c


def merged(axes: Sequence[Axis]) -> list[Axis]:
    """The same copy with as few axes as possible, in the order of y."""
    result: list[Axis] = []
    for axis in sorted((axis for axis in axes if axis.size > 1), key=lambda axis: -axis.y):
        outer = result[-1] if result else None
        if outer and outer.x == axis.size * axis.x and outer.y == axis.size * axis.y:
            result[-1] = Axis(outer.size * axis.size, axis.x, axis.y)
        else:
            result.append(axis)
    return result or [Axis(1, 1, 1)]


def copy_strided(device: Device, axes: Sequence[Axis], x: Memory, y: Memory) -> Run | None:
    """Copies x to y along these axes; None where they are too many. Fewer than 2^31 elements."""
    axes = merged(axes)
    if len(axes) > AXES:
        return None
    turned = _turned(axes)
    return _copy_in_order(device, axes, x, y) if turned is None else _turn(device, turned, x, y)


def _copy_in_order(device: Device, axes: Sequence[Axis], x: Memory, y: Memory) -> Run:
    pack = _pack(axes, x, y)
    if pack > 1:
        outer = [Axis(axis.size, axis.x // pack, axis.y // pack) for axis in axes[:-1]]
        axes = [*outer, Axis(axes[-1].size // pack, 1, 1)]
    packs = count([axis.size for axis in axes])
    padded = [*[Axis(1, 0, 0)] * (AXES - len(axes)), *axes]
    arguments: list[Argument] = [np.uint32(packs)]
    for axis in padded[1:]:
        arguments += divisor(axis.size)
    arguments += [np.uint32(axis.x) for axis in padded]
    arguments += [np.uint32(axis.y) for axis in padded]
    return Launch.of(device, STRIDED[pack], (blocks_for(device, packs, 1),), [*arguments, x, y])


def _pack(axes: Sequence[Axis], x: Memory, y: Memory) -> int:
    """How many neighbours can be copied at once."""
    *outer, inner = axes
    pack = PACKS[0]
    strides = [stride for axis in outer for stride in (axis.x, axis.y)]
    whole = inner.x == inner.y == 1 and all(n % pack == 0 for n in (inner.size, *strides))
    return pack_of(x, y) if whole else 1


def _turned(axes: Sequence[Axis]) -> list[Axis] | None:
    """The axes, those of stride 1 in x and in y in front; None where turning tiles gains nothing."""
    across = [axis for axis in axes if axis.x == 1]
    along = [axis for axis in axes if axis.y == 1]
    if len(across) != 1 or len(along) != 1 or across == along:
        return None
    pair = across + along
    others = [axis for axis in axes if axis not in pair]
    return [*pair, *others] if min(axis.size for axis in pair) >= LEAST_TURNED else None


def _turn(device: Device, axes: Sequence[Axis], x: Memory, y: Memory) -> Run:
    a, b, *others = axes
    padded = [*[Axis(1, 0, 0)] * (AXES - 2 - len(others)), *others]
    tiles = [-(-axis.size // TILE) for axis in (a, b)]
    blocks = tiles[0] * tiles[1] * count([axis.size for axis in others])
    arguments: list[Argument] = [np.uint32(blocks), np.uint32(a.size), np.uint32(b.size)]
    arguments += [*divisor(tiles[0]), *divisor(tiles[1]), np.uint32(b.x), np.uint32(a.y)]
    for axis in padded[1:]:
        arguments += divisor(axis.size)
    arguments += [np.uint32(axis.x) for axis in padded]
    arguments += [np.uint32(axis.y) for axis in padded]
    most = BLOCKS_PER_PROCESSOR * device.properties.processors
    return Launch.of(device, TILES, (min(blocks, most),), [*arguments, x, y])


def permuted(shape: Shape, order: Sequence[int], layout: str = PLAIN) -> list[Axis]:
    """The copy that gives x (of this shape, lying so) its axes in another order: axis i of y, which is plain,
    is axis order[i] of x."""
    strides, turned = strides_of(shape, layout), tuple(shape[axis] for axis in order)
    return [
        Axis(shape[axis], strides[axis], stride)
        for axis, stride in zip(order, contiguous(turned), strict=True)
    ]


def permute(device: Device, shape: Shape, order: Sequence[int], x: Memory, y: Memory) -> Run | None:
    """y = x, which is plain, with its axes in another order."""
    return copy_strided(device, permuted(shape, order), x, y)


def backwards(axes: Sequence[Axis]) -> list[Axis]:
    """The copy from y to x."""
    return [Axis(axis.size, axis.y, axis.x) for axis in axes]


def part_from(memory: Memory, element: int) -> Memory:
    """The memory from one of its floats on."""
    start = element * FLOAT_BYTES
    return memory.part(start, memory.nbytes - start)


class Moving(DeviceForm):
    """A top that is the bottom along other axes."""

    variant = "permute"

    def __init__(
        self, nodes: Sequence[Node], device: Device, axes: Sequence[Axis], bottom: str, top: str
    ) -> None:
        super().__init__(nodes, device)
        self.axes, self.bottom_layouts, self.top_layouts = axes, [bottom], [top]

    def forward(self, b: Buffers) -> Run | None:
        return copy_strided(self.device, self.axes, self.memory(b.bottoms[0]), self.memory(b.tops[0]))

    def backward(self, b: Buffers) -> Run | None:
        dy, dx = self.memory(b.top_grads[0]), self.memory(b.bottom_grads[0])
        return copy_strided(self.device, backwards(self.axes), dy, dx)


def make_permute(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    """None where nothing moves, and where more than 5 runs of axes move apart."""
    layer = nodes[0].layer
    if layer.shares_data or not fits(nodes):
        return None
    bottom, order = nodes[0].inputs[0], layer.order  # type: ignore[attr-defined]
    axes = permuted(bottom.shape, order, bottom.layout)
    return Moving(nodes, device, axes, bottom.layout, PLAIN) if len(merged(axes)) <= AXES else None


def make_shuffle(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    if not fits(nodes):
        return None
    layout = nodes[0].inputs[0].layout
    images, groups, members, cells = nodes[0].layer.groups  # type: ignore[attr-defined]
    channels = groups * members
    cell, channel = (channels, 1) if layout == NHWC else (1, cells)  # how far apart they lie
    image = channels * cells
    axes = [
        Axis(images, image, image),
        Axis(groups, members * channel, channel),
        Axis(members, channel, groups * channel),
        Axis(cells, cell, cell),
    ]
    return Moving(nodes, device, axes, layout, layout)


FORMS: dict[tuple[str, ...], Maker] = {
    ("Permute",): make_permute,
    ("ShuffleChannel",): make_shuffle,
}
