"""Pooling on the device: the table of kernels/pool.cu, its launches, and the form that runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from netc.backends.cuda.device import Argument, Device
from netc.backends.cuda.device_form import fits
from netc.backends.cuda.division import divisor
from netc.backends.cuda.elementwise import BLOCKS_PER_PROCESSOR, THREADS
from netc.backends.cuda.kernel import Variant
from netc.backends.cuda.launch import Launch, in_order
from netc.backends.cuda.memory import Memory
from netc.backends.cuda.stream import advance_draw, stream_key
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers, Scratch
from netc.layer.base import Shape, count
from netc.layer.pool import Pooling
from netc.proto import netc_pb2 as pb

WARP = 32
ROWS = 4  # cells of a column that a thread of the backward kernel takes
WIDE_CELLS = 64  # windows with so many cells or more are taken by a warp each
ANY = (0, 0)  # kernel and stride known only at run time
# Kernel and stride, the same along both axes, that code is made for.
SQUARES = {"maximum": ((2, 2), (3, 2), (3, 1), ANY), "average": ((3, 2), ANY), "expected": (ANY,)}
METHODS = {"maximum": "Maximum", "average": "Average", "expected": "Expected"}
Kind = type[np.unsignedinteger[Any]]  # what 1 + a place inside the window is kept in
BYTE, WORD = np.uint8, np.uint16
CHOSEN: dict[Kind, str] = {BYTE: "unsigned char", WORD: "unsigned short"}
MOST_CELLS: dict[Kind, int] = {BYTE: 255, WORD: 65535}


def _named(kernel: str, method: str, square: Shape, *more: str) -> str:
    size = f"{square[0]}x{square[0]}/{square[1]}" if square != ANY else "any"
    return " ".join((f"{kernel} {method} {size}", *more))


def _forward(method: str, chosen: Kind, square: Shape, wide: bool) -> Variant:
    name = _named("pool_forward", method, square, chosen.__name__, *["wide"] * wide)
    numbers = f"{square[0]}, {square[1]}, {str(wide).lower()}"
    return Variant(name, "pool.cu", f"pool_forward<{METHODS[method]}, {CHOSEN[chosen]}, {numbers}>", THREADS)


def _backward(chooses: bool, chosen: Kind, square: Shape) -> Variant:
    name = _named("pool_backward", "chosen" if chooses else "average", square, chosen.__name__)
    arguments = f"{str(chooses).lower()}, {CHOSEN[chosen]}, {square[0]}, {square[1]}"
    return Variant(name, "pool.cu", f"pool_backward<{arguments}>", THREADS)


# Windows of more than 255 cells, whose places need two bytes, are always wide.
FORWARD: dict[Any, Variant] = {
    **{
        (method, BYTE, square, False): _forward(method, BYTE, square, False)
        for method, squares in SQUARES.items()
        for square in squares
    },
    **{(method, BYTE, ANY, True): _forward(method, BYTE, ANY, True) for method in METHODS},
    ("maximum", WORD, ANY, True): _forward("maximum", WORD, ANY, True),
}
STOCHASTIC: dict[Any, Variant] = {
    chosen: Variant(
        f"pool_stochastic {chosen.__name__}", "pool.cu", f"pool_stochastic<{CHOSEN[chosen]}>", THREADS
    )
    for chosen in CHOSEN
}
BACKWARD: dict[Any, Variant] = {
    **{(True, BYTE, square): _backward(True, BYTE, square) for square in SQUARES["maximum"]},
    (True, WORD, ANY): _backward(True, WORD, ANY),
    **{(False, BYTE, square): _backward(False, BYTE, square) for square in SQUARES["average"]},
}
VARIANTS: dict[Any, Variant] = {**FORWARD, **STOCHASTIC, **BACKWARD}


@dataclass(frozen=True)
class PoolShape:
    """Planes (N C) of `image` (H, W) cells and `output` (P, Q) windows."""

    planes: int
    image: Shape
    output: Shape
    kernel: Shape
    stride: Shape
    pad: Shape

    @property
    def chosen(self) -> Kind | None:
        """What 1 + a place inside the window fits in; None where it has too many cells."""
        return next((kind for kind, most in MOST_CELLS.items() if count(self.kernel) <= most), None)

    @property
    def wide(self) -> bool:
        return count(self.kernel) >= WIDE_CELLS

    def square(self, known: Sequence[Shape]) -> Shape:
        """The kernel and stride that code is made for, ANY where there is none for these."""
        (r, s), (down, across) = self.kernel, self.stride
        return (r, down) if r == s and down == across and (r, down) in known else ANY

    @property
    def outputs(self) -> int:
        return self.planes * count(self.output)

    @property
    def groups(self) -> int:
        """Of ROWS cells of a column, in a plane's height."""
        return -(-self.image[0] // ROWS)

    def arguments(self, down: int, across: int) -> list[Argument]:
        """How many threads there are, in planes of `down` rows of `across`; then the windows' sizes."""
        numbers = (*self.image, *self.output, *self.kernel, *self.stride, *self.pad)
        threads = np.uint32(self.planes * down * across)
        return [threads, *divisor(down), *divisor(across), *(np.int32(number) for number in numbers)]


def forward(
    device: Device,
    method: str,
    shape: PoolShape,
    x: Memory,
    y: Memory,
    chosen: Memory | None = None,
    mask: Memory | None = None,
) -> Run:
    """y, and for "maximum" the chosen cells (`shape.chosen`) and their places in the plane (floats)."""
    square = ANY if shape.wide else shape.square(SQUARES[method])
    kind = (shape.chosen if method == "maximum" else None) or BYTE
    per_block = THREADS // WARP if shape.wide else THREADS
    arguments = (*shape.arguments(*shape.output), x, y, chosen, mask)
    variant = FORWARD[method, kind, square, shape.wide]
    return Launch.of(device, variant, _grid(device, shape.outputs, per_block), arguments)


def draw(
    device: Device,
    shape: PoolShape,
    x: Memory,
    y: Memory,
    chosen: Memory,
    key: tuple[np.uint64, np.uint64],
    number: Memory,
) -> Run | None:
    """Stochastic pooling: y and the chosen cells of draw `number` (int64) of a stream, which moves on."""
    assert shape.chosen is not None
    arguments = (*shape.arguments(*shape.output), x, y, chosen, *key, number)
    grid = _grid(device, shape.outputs, THREADS)
    pooling = Launch.of(device, STOCHASTIC[shape.chosen], grid, arguments)
    return in_order(pooling, advance_draw(device, number))


def backward(device: Device, shape: PoolShape, dy: Memory, chosen: Memory | None, dx: Memory) -> Run:
    """dx: from the outputs for which a cell was chosen; without `chosen` a share of each of its windows."""
    chooses = chosen is not None
    kind = (shape.chosen if chooses else None) or BYTE
    square = shape.square(SQUARES["maximum" if chooses else "average"]) if kind is BYTE else ANY
    threads = shape.planes * shape.groups * shape.image[1]
    arguments = (*shape.arguments(shape.groups, shape.image[1]), dy, chosen, dx)
    variant = BACKWARD[chooses, kind, square]
    return Launch.of(device, variant, _grid(device, threads, THREADS), arguments)


def _grid(device: Device, work: int, per_block: int) -> tuple[int]:
    most = BLOCKS_PER_PROCESSOR * device.properties.processors
    return (max(1, min(-(-work // per_block), most)),)


class PoolForm(Form):
    """One Pooling layer."""

    def __init__(self, nodes: Sequence[Node], mode: Mode, device: Device) -> None:
        super().__init__(nodes)
        layer = self.node.layer
        assert isinstance(layer, Pooling)
        self.device, self.layer = device, layer
        self.shape = pool_shape(layer)
        self.draws = layer.method == "stochastic" and layer.phase == pb.TRAIN
        self.method = "expected" if layer.method == "stochastic" else layer.method
        self.variant = f"pool {layer.method}"
        self.backward_bottoms = self.backward_tops = ()
        self.chooses = self.draws or (self.method == "maximum" and (mode.backward and self.needs_backward))
        if self.chooses and self.shape.chosen is not None:
            pooled = self.outputs[0].shape
            self.saved = {"chosen": Scratch(pooled, self.shape.chosen)}

    def forward(self, b: Buffers) -> Run | None:
        x, *tops = (self.device.memory_of(array) for array in (b.bottoms[0], *b.tops))
        chosen = self._chosen(b)
        if self.draws:
            assert chosen is not None
            key, number = stream_key(self.layer), self.device.memory_of(b.states["draw"])
            return draw(self.device, self.shape, x, tops[0], chosen, key, number)
        mask = tops[1] if len(tops) > 1 else None
        return forward(self.device, self.method, self.shape, x, tops[0], chosen, mask)

    def backward(self, b: Buffers) -> Run | None:
        if b.bottom_grads[0] is None:
            return None
        dx = self.device.memory_of(b.bottom_grads[0])
        if b.top_grads[0] is None:  # of two tops only the places are given a gradient, which goes nowhere
            return partial(self.device.fill, dx)
        return backward(self.device, self.shape, self.device.memory_of(b.top_grads[0]), self._chosen(b), dx)

    def _chosen(self, b: Buffers) -> Memory | None:
        return self.device.memory_of(b.saved["chosen"]) if self.chooses else None


def pool_shape(layer: Pooling) -> PoolShape:
    """The shape of a layer's windows."""
    window = layer.window
    planes = count(layer.bottom_shapes[0][:2])
    return PoolShape(planes, layer.image, layer.output, window.kernel, window.stride, window.pad)


def make_pool(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    """None for windows of more than 65535 cells."""
    layer = nodes[0].layer
    assert isinstance(layer, Pooling)
    if not fits(nodes) or pool_shape(layer).chosen is None:
        return None
    return PoolForm(nodes, mode, device)


FORMS: dict[tuple[str, ...], Maker] = {("Pooling",): make_pool}
