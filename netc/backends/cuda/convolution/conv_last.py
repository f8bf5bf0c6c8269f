"""Convolution on tensor cores over channels last, to images: the table of kernels/conv_last.cu, launches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.convolution import conv_last_filters, conv_last_weights
from netc.backends.cuda.convolution.conv_last_filters import WGMMA_PIECES, FilterRows, FilterSide, FilterTiles
from netc.backends.cuda.convolution.conv_last_images import (
    NUMBERS,
    PIECE,
    PIECE_BYTES,
    Reading,
    pays_to_pack,
    readings,
)
from netc.backends.cuda.convolution.conv_last_tile import Tile, choose_tile
from netc.backends.cuda.convolution.shape import ConvShape, Layouts, pieces
from netc.backends.cuda.convolution.work import Candidate, Images, workspace_of
from netc.backends.cuda.device import Argument, Device
from netc.backends.cuda.launching import Launch, in_order
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES
from netc.backends.cuda.tuning.tiles_to_try import worth_trying
from netc.backends.form import NHWC, Run

STEP_PIECES = 4  # of the filters
WGMMA_ALIGNMENT = 1024  # bytes
MOST_PADDING = 2  # times as many columns of a tile of wgmma as there are channels

# From large to small: rows are cells, columns output channels.
TILES = (
    *(
        tile
        for math, number in NUMBERS.items()
        for tile in (
            Tile(math, number, 256, 128, 64, 64, stages=3),
            Tile(math, number, 128, 128, 64, 64, stages=4),
            Tile(math, number, 128, 64, 64, 32, stages=4),
            Tile(math, number, 64, 64, 32, 32, stages=4),
        )
    ),
    *(
        tile
        for math in ("bf16", "fp16")
        for tile in (
            Tile(math, "float", 128, 128, 64, 64, stages=3),
            Tile(math, "float", 128, 64, 64, 32, stages=3),
            Tile(math, "float", 64, 64, 32, 32, stages=4),
        )
    ),
)

# For the GPUs of sm_90 alone; they read images that have been packed.
WGMMA_TILES = tuple(
    tile
    for math, number in NUMBERS.items()
    for tile in (
        Tile(math, number, 128, 256, 16, 256, stages=4, wgmma=True, feeders=4),
        Tile(math, number, 256, 128, 32, 128, stages=4, wgmma=True, feeders=4),
        Tile(math, number, 128, 128, 16, 128, stages=3, wgmma=True),
    )
)
# Those of them that the tuner may take. First a GPU must show that the tests of this family, of wrappers and
# of products that are fed pass on it, also under compute-sanitizer, and that, packing included, these tiles
# are faster than all of `TILES` at some of the convolutions of VGG-16 and ResNet-50 at batch 64.
TUNED_WGMMA_TILES: tuple[Tile, ...] = ()


def _variant(tile: Tile, long: bool) -> Variant:
    if tile.wgmma:
        number = NUMBERS[tile.math]
        expression = (
            f"conv_last_fed<{number}, {tile.m}, {tile.n}>" if tile.feeders else f"conv_last_wgmma<{number}>"
        )
        kernel = ("conv_last_wgmma.cu", expression)
        shared_bytes = tile.stages * (tile.m + tile.n) * WGMMA_PIECES * PIECE_BYTES + WGMMA_ALIGNMENT
        return Variant(
            f"conv last {tile}", *kernel, tile.threads, shared_bytes, architecture=90, specific=True
        )
    sizes = f"{tile.numbers}, {tile.sizes}, {tile.stages}, {str(long).lower()}"
    kernel = ("conv_last.cu", f"conv_last<{sizes}>")
    wider = PIECE[NUMBERS[tile.math]] // PIECE[tile.number]
    shared_bytes = tile.stages * (tile.m * wider + tile.n) * STEP_PIECES * PIECE_BYTES
    name = f"conv last {tile}{' long' if long else ''}"
    return Variant(name, *kernel, tile.threads, shared_bytes, architecture=80)


# Also by whether there is more to the ending than a bias and a ReLU; those of wgmma run them all.
DATA = {
    **{(tile, long): _variant(tile, long) for tile in TILES for long in (False, True)},
    **{(tile, False): _variant(tile, False) for tile in WGMMA_TILES},
}
VARIANTS = (*DATA.values(), *conv_last_filters.PACKING)


@dataclass(frozen=True)
class Plan:
    """How a direction that makes images is computed.

    source: the images that are read; rows: output channels of a group; row_stride, channel_stride: how far
    neighbours lie apart in the filters; source_sizes, target_sizes: (height, width); target_layout: how the
    results lie; backward: whether they are the bottom's gradient.
    """

    shape: ConvShape
    source: Reading
    rows: int
    row_stride: int
    channel_stride: int
    source_sizes: tuple[int, int]
    target_sizes: tuple[int, int]
    target_layout: str
    backward: bool

    @property
    def math(self) -> str:
        return self.source.math

    @property
    def side(self) -> FilterSide:
        strides = (self.row_stride, self.channel_stride)
        return FilterSide(self.math, self.shape, self.rows, self.source.channels, *strides, self.backward)

    def filters(self, tile: Tile) -> FilterRows | FilterTiles:
        """As the tile's kernel reads them."""
        return FilterTiles(self.side, tile.n) if tile.wgmma else FilterRows(self.side)

    def floats(self, tile: Tile) -> int:
        """The workspace."""
        return self.filters(tile).floats + self.source.floats

    @property
    def cells(self) -> int:
        """Of the images, or of the first phase of them where there are several."""
        steps = self.shape.stride if self.backward else (1, 1)
        high, wide = (pieces(size, step) for size, step in zip(self.target_sizes, steps, strict=True))
        return self.shape.n * high * wide

    def tiles(self, device: Device) -> list[Tile]:
        """All that a tuner should try, of which the first should be fastest."""
        found = [tile for tile in TILES if (tile.math, tile.number) == (self.math, self.source.number)]
        work = self.cells, self.rows, self.side.others, device.properties.processors
        architecture = device.properties.architecture
        more = [
            tile
            for tile in TUNED_WGMMA_TILES
            if self.source.packed and tile.math == self.math and DATA[tile, False].runs_on(architecture)
            if tile.n <= MOST_PADDING * self.rows
        ]
        return list(dict.fromkeys((choose_tile(found, *work), *worth_trying(found, *work), *more)))


def plans(direction: str, math: str, shape: ConvShape, layouts: Layouts) -> list[Plan]:
    """One for each way to read the images; a rule expects the first to be fastest."""
    taps, depth = shape.taps, shape.group_c * shape.taps
    x, y = (shape.h, shape.w), (shape.p, shape.q)
    if direction == "forward":
        found = [
            Plan(shape, source, shape.group_k, depth, taps, x, y, layouts.y, False)
            for source in readings(math, shape.n, shape.group, shape.group_c, shape.h * shape.w, layouts.x)
        ]
    else:
        found = [
            Plan(shape, source, shape.group_c, taps, depth, y, x, layouts.x, True)
            for source in readings(math, shape.n, shape.group, shape.group_k, shape.p * shape.q, layouts.y)
        ]
    return found[::-1] if pays_to_pack(math, shape) else found


def bind_images(device: Device, shape: ConvShape, work: Images, plan: Plan, tile: Tile) -> Run:
    """Binds the packing of the filters and the images, and the convolution of them."""
    source, side, packed = plan.source, plan.side, plan.filters(tile)
    room = workspace_of(work, plan.floats(tile))
    filters = room.part(0, packed.floats * FLOAT_BYTES)
    rest = room.part(filters.nbytes, source.floats * FLOAT_BYTES) if source.packed else None
    packing, images = ([], work.source) if work.packed else source.bind(device, work.source, rest)
    window = (shape.r, shape.s, *shape.stride, *shape.pad, *shape.dilation, shape.group)
    pitches = (source.cell_pitch, source.group_pitch, source.pieces, side.pieces)
    sizes = (shape.n, *plan.source_sizes, *pitches, plan.rows, *plan.target_sizes, *window)
    arguments: list[Argument] = [*map(np.int32, sizes), np.bool_(plan.backward)]
    arguments += [np.bool_(plan.target_layout == NHWC)]
    if isinstance(packed, FilterTiles):
        arguments.append(np.int32(packed.pitch))
    arguments += [images, filters, *work.ending, work.target]
    if not tile.wgmma:
        arguments.append(work.moments)
    grid = (tile.blocks(plan.cells, plan.rows), 1, side.others)
    convolution = Launch.of(device, DATA[tile, work.ends_long and not tile.wgmma], grid, arguments)
    return in_order(packed.bind(device, work.w, filters), *packing, convolution)


def images_candidate(plan: Plan, tile: Tile) -> Candidate:
    """One direction to images with a tile, which may be one of `WGMMA_TILES` where images are packed."""
    family = f"last {plan.math}{' wgmma' if tile.wgmma else ''}"
    name = f"{family} {tile.m}x{tile.n}{' packed' if plan.source.packed else ''}"
    bind = partial(bind_images, plan=plan, tile=tile)
    parts = 0 if plan.backward or tile.wgmma else pieces(plan.cells, tile.m)
    packs = plan.source if plan.source.packed else None
    return Candidate(family, name, bind, plan.floats(tile), packs, parts)


def candidates(
    direction: str, device: Device, shape: ConvShape, math: str, layouts: Layouts
) -> list[Candidate]:
    """What can run a direction; a rule expects the first to be fastest."""
    if direction == "backward_weights":
        return conv_last_weights.candidates(device, shape, math, layouts)
    return [
        images_candidate(plan, tile)
        for plan in plans(direction, math, shape, layouts)
        for tile in plan.tiles(device)
    ]
