"""3 x 3 convolution with few multiplications: the table of kernels/winograd.cu, and its launches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.convolution.shape import ConvShape, Pair, pieces
from netc.backends.cuda.convolution.work import Candidate, Images, workspace_of
from netc.backends.cuda.device import Argument, Device, Memory, Product
from netc.backends.cuda.launching import Launch, in_order
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES, THREADS, blocks_for
from netc.backends.form import Run

ROWS, TILES, DEPTH = 64, 32, 8  # winograd_2x2: rows and tiles of a block, channels of a step
SHARED_BYTES = 2 * DEPTH * 16 * (ROWS + TILES) * FLOAT_BYTES
LEAST_CHANNELS = 32  # with fewer on either side the transforms cost what the multiplications save
MOST_TILE_BYTES = 128 << 20  # of the transformed tiles of F(4 x 4), which are made for some images at a time

FILTERS = {
    m: Variant(f"winograd filters {m}x{m}", "winograd.cu", f"winograd_filters<{m}>", THREADS, architecture=80)
    for m in (2, 4)
}
FUSED = Variant("winograd 2x2", "winograd.cu", "winograd_2x2<>", THREADS, SHARED_BYTES, architecture=80)
INPUT = Variant("winograd 4x4 input", "winograd.cu", "winograd_4x4_input<>", THREADS, architecture=80)
OUTPUT = Variant("winograd 4x4 output", "winograd.cu", "winograd_4x4_output<>", THREADS, architecture=80)
VARIANTS: tuple[Variant, ...] = (*FILTERS.values(), FUSED, INPUT, OUTPUT)


@dataclass(frozen=True)
class Sides:
    """What a direction computes: (n, rows, p, q) from (n, channels, h, w), with these filters.

    turned: whether the filters are turned by half a circle; row_stride, channel_stride: how far those of
    neighbouring rows and channels lie apart.
    """

    n: int
    channels: int
    h: int
    w: int
    rows: int
    p: int
    q: int
    pad: Pair
    turned: bool
    row_stride: int
    channel_stride: int

    @classmethod
    def forward(cls, s: ConvShape) -> Sides:
        return cls(s.n, s.c, s.h, s.w, s.k, s.p, s.q, s.pad, False, 9 * s.c, 9)

    @classmethod
    def backward_data(cls, s: ConvShape) -> Sides:
        pad = (2 - s.pad[0], 2 - s.pad[1])
        return cls(s.n, s.k, s.p, s.q, s.c, s.h, s.w, pad, True, 9, 9 * s.c)

    def tiles(self, m: int) -> int:
        """Of m x m cells, in one image."""
        return pieces(self.p, m) * pieces(self.q, m)

    @property
    def row_pitch(self) -> int:
        """Rows of the filters that winograd_2x2 reads."""
        return pieces(self.rows, ROWS) * ROWS

    @property
    def all_channels(self) -> int:
        """Channels of the filters that winograd_2x2 reads."""
        return pieces(self.channels, DEPTH) * DEPTH

    @property
    def images_at_once(self) -> int:
        """Images whose tiles F(4 x 4) holds at a time."""
        each = 36 * (self.channels + self.rows) * self.tiles(4) * FLOAT_BYTES
        return max(1, min(self.n, MOST_TILE_BYTES // each))


def can_run(device: Device, shape: ConvShape) -> bool:
    """Whether the convolution is of the kind that these kernels are for, on a device that can run them."""
    limits = device.properties
    alike = (shape.r, shape.s) == (3, 3) and shape.stride == shape.dilation == (1, 1) and shape.group == 1
    return alike and limits.architecture >= FUSED.architecture and limits.shared_bytes >= SHARED_BYTES


def pays(device: Device, shape: ConvShape) -> bool:
    """Whether F(2 x 2) should run in place of a direct convolution: enough blocks, and channels for them."""
    blocks = min(
        pieces(sides.rows, ROWS) * pieces(sides.n * sides.tiles(2), TILES)
        for sides in (Sides.forward(shape), Sides.backward_data(shape))
    )
    enough = blocks >= device.properties.processors
    return can_run(device, shape) and min(shape.c, shape.k) >= LEAST_CHANNELS and enough


def floats(m: int, sides: Sides) -> int:
    """Workspace: the transformed filters, and for F(4 x 4) the transformed tiles of both sides."""
    if m == 2:
        return sides.all_channels * 16 * sides.row_pitch
    tiles = sides.images_at_once * sides.tiles(4)
    return 36 * (sides.channels * sides.rows + (sides.channels + sides.rows) * tiles)


def _bind_2x2(device: Device, shape: ConvShape, work: Images, sides: Sides) -> Run:
    u = workspace_of(work, floats(2, sides))
    pitch, tiles = sides.row_pitch, sides.n * sides.tiles(2)
    filters = _bind_filters(device, 2, sides, pitch, sides.all_channels, 16 * pitch, pitch, work.w, u)
    sizes = (sides.channels, sides.h, sides.w, sides.rows, pitch, sides.p, sides.q, *sides.pad, tiles)
    arguments: list[Argument] = [*map(np.int32, sizes), work.source, u]
    arguments += [*work.ending, work.target]
    grid = (pitch // ROWS * pieces(tiles, TILES),)
    return in_order(filters, Launch.of(device, FUSED, grid, arguments))


def _bind_4x4(device: Device, shape: ConvShape, work: Images, sides: Sides) -> Run:
    channels, rows = sides.channels, sides.rows
    workspace = workspace_of(work, floats(4, sides))
    u = _part(workspace, 0, 36 * channels * rows)
    runs: list[Run] = [_bind_filters(device, 4, sides, rows, channels, rows, channels * rows, work.w, u)]
    for first in range(0, sides.n, sides.images_at_once):
        images = min(sides.images_at_once, sides.n - first)
        tiles = images * sides.tiles(4)
        v = _part(workspace, 36 * channels * rows, 36 * channels * tiles)
        m = _part(workspace, 36 * channels * (rows + tiles), 36 * rows * tiles)
        x = _part(work.source, first * channels * sides.h * sides.w, images * channels * sides.h * sides.w)
        results = (first * rows * sides.p * sides.q, images * rows * sides.p * sides.q)
        y = _part(work.target, *results)
        residual = _part(work.residual, *results) if work.residual else None
        sizes = (channels, sides.h, sides.w, sides.p, sides.q, *sides.pad, tiles)
        before: list[Argument] = [*map(np.int32, sizes), x, v]
        after: list[Argument] = [*map(np.int32, (rows, sides.p, sides.q, tiles)), m]
        after += [*replace(work, residual=residual).ending, y]
        product = Product(rows, tiles, channels, trans_a=True, batch=36)
        runs += [
            Launch.of(device, INPUT, (blocks_for(device, channels * tiles, 1),), before),
            device.bind_gemm(product, u, v, m),
            Launch.of(device, OUTPUT, (blocks_for(device, rows * tiles, 1),), after),
        ]
    return in_order(*runs)


BINDERS = {2: _bind_2x2, 4: _bind_4x4}
TILE_SIZES = tuple(BINDERS)


def candidate(direction: str, shape: ConvShape, m: int) -> Candidate:
    """F(m x m) of a direction that makes images."""
    sides = Sides.forward(shape) if direction == "forward" else Sides.backward_data(shape)
    name = f"winograd {m}x{m}"
    return Candidate(name, name, partial(BINDERS[m], sides=sides), floats(m, sides))


def _bind_filters(
    device: Device,
    m: int,
    sides: Sides,
    row_pitch: int,
    all_channels: int,
    channel_pitch: int,
    position_pitch: int,
    w: Memory,
    u: Memory,
) -> Run:
    arguments: list[Argument] = [*map(np.int32, (sides.rows, sides.channels, row_pitch, all_channels))]
    arguments += [np.int64(channel_pitch), np.int64(position_pitch)]
    arguments += [np.int32(sides.row_stride), np.int32(sides.channel_stride), np.bool_(sides.turned), w, u]
    return Launch.of(device, FILTERS[m], (blocks_for(device, row_pitch * all_channels, 1),), arguments)


def _part(memory: Memory, first: int, count: int) -> Memory:
    return memory.part(first * FLOAT_BYTES, count * FLOAT_BYTES)
