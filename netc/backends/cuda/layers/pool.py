"""Pooling on the device: the table of kernels/pool.cu, its launches, and the form that runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.device.form import DeviceForm, fits
from netc.backends.cuda.launching import Launch, in_order
from netc.backends.cuda.launching.division import divisor
from netc.backends.cuda.launching.elementwise import BLOCKS_PER_PROCESSOR, PACKS, THREADS, pack_of
from netc.backends.cuda.launching.stream import advance_draw, stream_key
from netc.backends.form import NHWC, PLAIN, Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers, Scratch
from netc.layer.base import Shape, count
from netc.layer.pool import Pooling
from netc.proto import netc_pb2 as pb

WARP = 32
ROWS = 4  # cells of a column that a thread of the backward kernel takes
WIDE_CELLS = 64  # windows of planes with so many cells or more are taken by a warp each
SHARED_CELLS = 16  # windows of channels last with so many cells or more are shared, unless there are many
BUSY_THREADS = 1024  # of a processor: so many windows or more keep it busy, a thread each
ANY = (0, 0)  # kernel and stride known only at run time
PLANES = 0  # channels of a thread where those of a cell do not lie side by side
# Kernel and stride, the same along both axes, that code is made for.
SQUARES = {"maximum": ((2, 2), (3, 2), (3, 1), ANY), "average": ((3, 2), ANY), "expected": (ANY,)}
METHODS = {"maximum": "Maximum", "average": "Average", "expected": "Expected"}
Kind = type[np.unsignedinteger[Any]]  # what 1 + a place inside the window is kept in
BYTE, WORD = np.uint8, np.uint16
CHOSEN: dict[Kind, str] = {BYTE: "unsigned char", WORD: "unsigned short"}
MOST_CELLS: dict[Kind, int] = {BYTE: 255, WORD: 65535}


def _squares(method: str, last: int) -> tuple[Shape, ...]:
    """The squares that there is code for, but one where channels do not go into packs, which is rare."""
    return (ANY,) if last == 1 else SQUARES[method]


def _row(kernel: str, words: Sequence[object], last: int, *arguments: object) -> Variant:
    shown = [kernel, *words, *([f"last {last}"] if last else [])]
    listed = ", ".join(str(argument) for argument in arguments)
    return Variant(" ".join(map(str, shown)), "pool.cu", f"{kernel}<{listed}>", THREADS)


def _size(square: Shape) -> str:
    return f"{square[0]}x{square[0]}/{square[1]}" if square != ANY else "any"


def _forward(method: str, square: Shape, last: int) -> Variant:
    arguments = (METHODS[method], CHOSEN[BYTE], *square, last)
    return _row("pool_forward", (method, _size(square)), last, *arguments)


def _large(method: str, chosen: Kind, last: int) -> Variant:
    kernel, more = ("pool_forward_shared", (last,)) if last else ("pool_forward_wide", ())
    return _row(kernel, (method, chosen.__name__), last, METHODS[method], CHOSEN[chosen], *more)


def _backward(chooses: bool, chosen: Kind, square: Shape, last: int) -> Variant:
    words = ("chosen" if chooses else "average", _size(square), chosen.__name__)
    return _row("pool_backward", words, last, str(chooses).lower(), CHOSEN[chosen], *square, last)


PACKED = (PLANES, *PACKS)
FORWARD: dict[Any, Variant] = {
    (method, square, last): _forward(method, square, last)
    for method in METHODS
    for last in PACKED
    for square in _squares(method, last)
}
# Of windows of more than 255 cells, whose places need two bytes, there are few: channels one by one will do.
LARGE: dict[Any, Variant] = {
    **{(method, BYTE, last): _large(method, BYTE, last) for method in METHODS for last in PACKED},
    **{("maximum", WORD, last): _large("maximum", WORD, last) for last in (PLANES, 1)},
}
STOCHASTIC: dict[Any, Variant] = {
    (chosen, last): _row("pool_stochastic", (chosen.__name__,), last, CHOSEN[chosen], last)
    for chosen in CHOSEN
    for last in (PLANES, 1)
}
BACKWARD: dict[Any, Variant] = {
    **{
        (chooses, BYTE, square, last): _backward(chooses, BYTE, square, last)
        for chooses, method in ((True, "maximum"), (False, "average"))
        for last in PACKED
        for square in _squares(method, last)
    },
    **{(True, WORD, ANY, last): _backward(True, WORD, ANY, last) for last in (PLANES, 1)},
}
VARIANTS = (*FORWARD.values(), *LARGE.values(), *STOCHASTIC.values(), *BACKWARD.values())


@dataclass(frozen=True)
class PoolShape:
    """Planes (N C) of `image` (H, W) cells and `output` (P, Q) windows.

    channels: of an image, where those of a cell lie side by side; 0 where plane lies behind plane.
    """

    planes: int
    image: Shape
    output: Shape
    kernel: Shape
    stride: Shape
    pad: Shape
    channels: int = 0

    @property
    def chosen(self) -> Kind | None:
        """What 1 + a place inside the window fits in; None where it has too many cells."""
        return next((kind for kind, most in MOST_CELLS.items() if count(self.kernel) <= most), None)

    def square(self, known: Sequence[Shape]) -> Shape:
        """The kernel and stride that code is made for, ANY where there is none for these."""
        (r, s), (down, across) = self.kernel, self.stride
        return (r, down) if r == s and down == across and (r, down) in known else ANY

    def last(self, kind: Kind, *memories: Memory | None) -> int:
        """The neighbouring channels that a thread takes; PLANES where none are."""
        if not self.channels:
            return PLANES
        packs = kind is BYTE and self.channels % PACKS[0] == 0
        return pack_of(*memories) if packs else PACKS[1]

    def is_large(self, device: Device, kind: Kind, last: int) -> bool:
        """Whether a window is too much for one thread."""
        cells = count(self.kernel)
        if not last:
            return cells >= WIDE_CELLS
        few = self.outputs // last < BUSY_THREADS * device.properties.processors
        return kind is WORD or (few and cells >= SHARED_CELLS)

    @property
    def outputs(self) -> int:
        return self.planes * count(self.output)

    @property
    def groups(self) -> int:
        """Of ROWS cells of a column, in a plane's height."""
        return -(-self.image[0] // ROWS)

    def arguments(self, last: int, down: int, across: int) -> list[Argument]:
        """How many threads there are, in planes of `down` rows of `across`; then the windows' sizes."""
        numbers = (*self.image, *self.output, *self.kernel, *self.stride, *self.pad)
        packs = self.channels // last if last else 1
        threads = np.uint32(self.planes * down * across // max(last, 1))
        places = (*divisor(down), *divisor(across), *divisor(packs))
        return [threads, *places, *(np.int32(number) for number in numbers)]


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
    kind = (shape.chosen if method == "maximum" else None) or BYTE
    last = shape.last(kind, x, y, chosen, mask)
    arguments = (*shape.arguments(last, *shape.output), x, y, chosen, mask)
    if shape.is_large(device, kind, last):
        variant, per_block = LARGE[method, kind, last], WARP if last else THREADS // WARP
    else:
        variant, per_block = FORWARD[method, shape.square(_squares(method, last)), last], THREADS
    return Launch.of(device, variant, _grid(device, shape.outputs // max(last, 1), per_block), arguments)


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
    last = 1 if shape.channels else PLANES
    arguments = (*shape.arguments(last, *shape.output), x, y, chosen, *key, number)
    grid = _grid(device, shape.outputs, THREADS)
    pooling = Launch.of(device, STOCHASTIC[shape.chosen, last], grid, arguments)
    return in_order(pooling, advance_draw(device, number))


def backward(device: Device, shape: PoolShape, dy: Memory, chosen: Memory | None, dx: Memory) -> Run:
    """dx: from the outputs for which a cell was chosen; without `chosen` a share of each of its windows."""
    chooses = chosen is not None
    kind = (shape.chosen if chooses else None) or BYTE
    last = shape.last(kind, dy, chosen, dx)
    known = _squares("maximum" if chooses else "average", last) if kind is BYTE else ()
    threads = shape.planes * shape.groups * shape.image[1] // max(last, 1)
    arguments = (*shape.arguments(last, shape.groups, shape.image[1]), dy, chosen, dx)
    variant = BACKWARD[chooses, kind, shape.square(known), last]
    return Launch.of(device, variant, _grid(device, threads, THREADS), arguments)


def _grid(device: Device, work: int, per_block: int) -> tuple[int]:
    most = BLOCKS_PER_PROCESSOR * device.properties.processors
    return (max(1, min(-(-work // per_block), most)),)


class PoolForm(DeviceForm):
    """One Pooling layer."""

    def __init__(self, nodes: Sequence[Node], mode: Mode, device: Device) -> None:
        super().__init__(nodes, device)
        layer = self.node.layer
        assert isinstance(layer, Pooling)
        self.layer = layer
        self.shape = pool_shape(layer, self.keep_layout())
        self.draws = layer.method == "stochastic" and layer.phase == pb.TRAIN
        self.method = "expected" if layer.method == "stochastic" else layer.method
        self.variant = f"pool {layer.method}"
        self.chooses = self.draws or (self.method == "maximum" and (mode.backward and self.needs_backward))
        kept = self.shape.chosen if self.chooses else None
        self.saved = {} if kept is None else {"chosen": Scratch(self.outputs[0].shape, kept)}

    def forward(self, b: Buffers) -> Run | None:
        x, *tops = (self.memory(array) for array in (b.bottoms[0], *b.tops))
        chosen = self._chosen(b)
        if self.draws:
            assert chosen is not None
            key, number = stream_key(self.layer), self.memory(b.states["draw"])
            return draw(self.device, self.shape, x, tops[0], chosen, key, number)
        mask = tops[1] if len(tops) > 1 else None
        return forward(self.device, self.method, self.shape, x, tops[0], chosen, mask)

    def backward(self, b: Buffers) -> Run | None:
        if b.bottom_grads[0] is None:
            return None
        dx, dy = self.memory(b.bottom_grads[0]), self.memory_if(b.top_grads[0])
        if dy is None:  # of two tops only the places are given a gradient, which goes nowhere
            return partial(self.device.fill, dx)
        return backward(self.device, self.shape, dy, self._chosen(b), dx)

    def _chosen(self, b: Buffers) -> Memory | None:
        return self.memory(b.saved["chosen"]) if self.chooses else None


def pool_shape(layer: Pooling, layout: str = PLAIN) -> PoolShape:
    """The shape of a layer's windows."""
    window, (images, channels) = layer.window, layer.bottom_shapes[0][:2]
    sizes = (layer.image, layer.output, window.kernel, window.stride, window.pad)
    return PoolShape(images * channels, *sizes, channels if layout == NHWC else 0)


def make_pool(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    """None for windows of more than 65535 cells."""
    layer = nodes[0].layer
    assert isinstance(layer, Pooling)
    if not fits(nodes) or pool_shape(layer).chosen is None:
        return None
    return PoolForm(nodes, mode, device)


FORMS: dict[tuple[str, ...], Maker] = {("Pooling",): make_pool}
