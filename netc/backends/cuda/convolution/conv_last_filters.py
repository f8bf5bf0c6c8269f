"""Filters as kernels/conv_last.cu and conv_last_wgmma.cu read them: what packs them, its launches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.convolution.conv_last_images import NUMBERS, PIECE, PIECE_BYTES
from netc.backends.cuda.convolution.shape import ConvShape, pieces
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.launching import Launch
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES, THREADS, blocks_for
from netc.backends.form import Run

WGMMA_PIECES = 8  # of a row of a tile
WGMMA_COLUMNS = (128, 256)

ROWS = {
    math: Variant(
        f"pack filters last {math}", "conv_last.cu", f"pack_last_filters<{number}>", THREADS, architecture=80
    )
    for math, number in NUMBERS.items()
}
TILES = {
    (math, columns): Variant(
        f"pack filters last {math} tiles of {columns}",
        "conv_last_wgmma.cu",
        f"pack_filter_tiles<{number}, {columns}>",
        THREADS,
        architecture=90,
        specific=True,
    )
    for math, number in NUMBERS.items()
    for columns in WGMMA_COLUMNS
}
PACKING = (*ROWS.values(), *TILES.values())


@dataclass(frozen=True)
class FilterSide:
    """The filters of one direction: of each group so many `rows`, its output channels, of `channels` each, as
    they lie in memory that far apart. backward: whether they make the bottom's gradient, phase by phase."""

    math: str
    shape: ConvShape
    rows: int
    channels: int
    row_stride: int
    channel_stride: int
    backward: bool

    @property
    def pieces(self) -> int:
        """Of a row's channels."""
        return pieces(self.channels, PIECE[NUMBERS[self.math]])

    @property
    def others(self) -> int:
        """The products of so many groups and phases."""
        stride = self.shape.stride
        return self.shape.group * (stride[0] * stride[1] if self.backward else 1)


@dataclass(frozen=True)
class FilterRows:
    """Packed as (groups, taps, rows, pieces)."""

    side: FilterSide

    @property
    def count(self) -> int:
        """Pieces."""
        side = self.side
        return side.shape.group * side.shape.taps * side.rows * side.pieces

    @property
    def floats(self) -> int:
        """The room that they take."""
        return self.count * PIECE_BYTES // FLOAT_BYTES

    def bind(self, device: Device, w: Memory, room: Memory) -> Run:
        side, each = self.side, PIECE[NUMBERS[self.side.math]]
        sizes = (self.count * each, side.rows, side.channels, side.pieces * each, side.shape.taps)
        arguments: list[Argument] = [*map(np.uint32, (*sizes, side.row_stride, side.channel_stride)), w, room]
        return Launch.of(device, ROWS[side.math], (blocks_for(device, self.count * each, 1),), arguments)


@dataclass(frozen=True)
class FilterTiles:
    """Packed as (phases, groups, blocks of so many columns, steps), each a tile as wgmma takes it."""

    side: FilterSide
    columns: int

    @property
    def pitch(self) -> int:
        """The steps of a phase, of the one with the most."""
        shape = self.side.shape
        most = [
            _most_taps(*axis) if self.side.backward else axis[0]
            for axis in zip((shape.r, shape.s), shape.stride, shape.pad, shape.dilation, strict=True)
        ]
        return pieces(most[0] * most[1] * self.side.pieces, WGMMA_PIECES)

    @property
    def blocks(self) -> int:
        return pieces(self.side.rows, self.columns)

    @property
    def floats(self) -> int:
        """The room that they take."""
        tile = self.columns * WGMMA_PIECES * PIECE_BYTES // FLOAT_BYTES
        return self.side.others * self.blocks * self.pitch * tile

    def bind(self, device: Device, w: Memory, room: Memory) -> Run:
        side, shape = self.side, self.side.shape
        window = (shape.r, shape.s, *shape.stride, *shape.pad, *shape.dilation, shape.group)
        arguments: list[Argument] = [*map(np.int32, (side.rows, side.channels, side.pieces, *window))]
        arguments += [np.bool_(side.backward), *map(np.int32, (side.row_stride, side.channel_stride))]
        arguments += [np.int32(self.pitch), w, room]
        high, deep = self.blocks * self.columns * WGMMA_PIECES // THREADS, pieces(side.pieces, WGMMA_PIECES)
        return Launch.of(device, TILES[side.math, self.columns], (high * deep, 1, side.others), arguments)


def _most_taps(taps: int, stride: int, pad: int, dilation: int) -> int:
    """The taps along one axis that a phase meets, of the phase that meets the most."""
    return max(
        sum((phase + pad - tap * dilation) % stride == 0 for tap in range(taps)) for phase in range(stride)
    )
