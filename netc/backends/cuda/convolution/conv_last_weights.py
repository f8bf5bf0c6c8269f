"""Convolution over channels last, to the filters: the table of kernels/conv_last_weights.cu, launches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.convolution.conv_last_images import (
    NUMBERS,
    PIECE,
    PIECE_BYTES,
    Reading,
    pays_to_pack,
    readings,
)
from netc.backends.cuda.convolution.conv_last_tile import Tile, choose_tile
from netc.backends.cuda.convolution.shape import MOST_BLOCKS, ConvShape, Layouts, pieces
from netc.backends.cuda.convolution.work import Candidate, Filters, workspace_of
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.launching import Launch, in_order
from netc.backends.cuda.launching.division import divisor
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES, THREADS, blocks_for
from netc.backends.cuda.tuning.tiles_to_try import without_padding
from netc.backends.form import Run

STEP = {"float": 16, "bf16": 32, "fp16": 32}  # cells, by what the images hold
PAD_BYTES = 32  # behind each row of a tile
MOST_SHARE_BYTES = 256 << 20  # of the sums that are left for the second stage
BLOCKS = (1, 2, 4)  # for half a processor: how finely the cells may be split
LEAST_STEPS = 8  # of a share: fewer do not pay for its second stage
STEPS_AT_ONCE = 32  # cells, from which on a share counts as a block of its own

# From large to small: rows are filters, columns taps and channels.
TILES = tuple(
    tile
    for math, number in dict.fromkeys((*NUMBERS.items(), *((math, "float") for math in NUMBERS)))
    for tile in (
        Tile(math, number, 128, 128, 64, 64, stages=4),
        Tile(math, number, 128, 64, 64, 32, stages=4),
        Tile(math, number, 64, 64, 32, 32, stages=4),
    )
)


def _variant(tile: Tile) -> Variant:
    step = STEP[tile.number]
    row_bytes = (tile.m + tile.n) * PIECE_BYTES // PIECE[tile.number] + 2 * PAD_BYTES
    sizes = f"{tile.m}, {tile.n}, {step}, {tile.warp_m}, {tile.warp_n}"
    return Variant(
        f"conv last weights {tile}",
        "conv_last_weights.cu",
        f"conv_last_weights<{tile.numbers}, {sizes}, {tile.stages}>",
        tile.threads,
        tile.stages * step * row_bytes,
        architecture=80,
    )


WEIGHTS = {tile: _variant(tile) for tile in TILES}
ADD_SHARES = Variant("conv last add_shares", "conv_last_weights.cu", "add_shares<>", THREADS)
VARIANTS = (*WEIGHTS.values(), ADD_SHARES)


@dataclass(frozen=True)
class Plan:
    """How the filters' gradient is computed: both sides' images, the tile, into how many shares the cells are
    split."""

    shape: ConvShape
    x: Reading
    dy: Reading
    tile: Tile
    shares: int

    @property
    def columns(self) -> int:
        """Taps and channels of a filter, those that fill up pieces among them."""
        return self.shape.taps * self.x.group_pitch

    @property
    def sums(self) -> int:
        """Floats that the shares leave for the second stage."""
        return self.shares * self.shape.k * self.columns if self.shares > 1 else 0

    @property
    def floats(self) -> int:
        return self.x.floats + self.dy.floats + self.sums


def choose_shares(shape: ConvShape, x: Reading, tile: Tile, processors: int) -> int:
    """Into how many shares the cells are split: enough blocks for two on each processor, as memory allows."""
    columns = shape.taps * x.group_pitch
    blocks = tile.blocks(shape.group_k, columns) * shape.group
    steps = pieces(shape.n * shape.p * shape.q, STEP[tile.number])
    wanted = min(pieces(2 * processors, blocks), steps // LEAST_STEPS)
    room = MOST_SHARE_BYTES // (shape.k * columns * FLOAT_BYTES)
    return max(1, min(wanted, room, MOST_BLOCKS))


def splits(device: Device, shape: ConvShape, x: Reading) -> list[tuple[Tile, int]]:
    """Tiles and shares: all that a tuner should try, of which the first should be fastest. Shares make up for
    few tiles, so only padding speaks against a large one."""
    processors = device.properties.processors
    tiles = [tile for tile in TILES if (tile.math, tile.number) == (x.math, x.number)]
    others = shape.group * max(1, pieces(shape.n * shape.p * shape.q, STEPS_AT_ONCE) // LEAST_STEPS)
    sizes = shape.group_k, shape.taps * x.group_pitch
    rule = choose_tile(tiles, *sizes, others, processors)
    more = (
        (tile, choose_shares(shape, x, tile, pieces(blocks * processors, 2)))
        for tile in without_padding(tiles, *sizes)
        for blocks in BLOCKS
    )
    return list(dict.fromkeys(((rule, choose_shares(shape, x, rule, processors)), *more)))


def bind_filters(device: Device, shape: ConvShape, work: Filters, plan: Plan) -> Run:
    """Binds dw += dy * x, the packing of both included."""
    x_room, dy_room, sums = _rooms(work, plan)
    packing_x, x = plan.x.bind(device, work.x, x_room)
    packing_dy, dy = ([], work.dy) if work.packed else plan.dy.bind(device, work.dy, dy_room)
    cells, tile = shape.n * shape.p * shape.q, plan.tile
    share = pieces(pieces(cells, STEP[tile.number]), plan.shares)
    sides = (*_pitches(plan.x), shape.group_c, *_pitches(plan.dy), shape.group_k)
    window = (shape.r, shape.s, *shape.stride, *shape.pad, *shape.dilation, shape.group)
    arguments: list[Argument] = [np.int64(cells), *map(np.int32, (shape.h, shape.w, *sides, *window))]
    arguments += [*divisor(shape.p * shape.q), *divisor(shape.q), np.int32(share), x, dy, sums or work.dw]
    grid = (tile.blocks(shape.group_k, plan.columns), plan.shares, shape.group)
    products = Launch.of(device, WEIGHTS[tile], grid, arguments)
    adding = [_add_shares(device, plan, sums, work)] if sums else []
    return in_order(*packing_x, *packing_dy, products, *adding)


def _rooms(work: Filters, plan: Plan) -> Iterator[Memory | None]:
    """Of the workspace, for what is packed of x and of dy, and for the shares' sums; None for nothing."""
    begin = 0
    for floats in (plan.x.floats, plan.dy.floats, plan.sums):
        size = floats * FLOAT_BYTES
        yield workspace_of(work, plan.floats).part(begin, size) if size else None
        begin += size


def _pitches(images: Reading) -> tuple[int, int, int]:
    return images.cell_pitch, images.group_pitch, images.pieces


def _add_shares(device: Device, plan: Plan, sums: Memory, work: Filters) -> Run:
    count = plan.shape.k * plan.columns
    sizes = (plan.shape.group_c, plan.x.group_pitch, plan.shape.taps)
    arguments: list[Argument] = [np.uint32(count), np.int32(plan.shares), *map(np.uint32, sizes)]
    arguments += [sums, work.dw]
    return Launch.of(device, ADD_SHARES, (blocks_for(device, count, 1),), arguments)


def filters_candidate(plan: Plan) -> Candidate:
    """The direction to the filters by a plan."""
    family, tile = f"last {plan.tile.math}", plan.tile
    packed = [name for name, images in (("x", plan.x), ("dy", plan.dy)) if images.packed]
    name = f"{family} {tile.m}x{tile.n} in {plan.shares}{f' packed {chr(32).join(packed)}' if packed else ''}"
    bind = partial(bind_filters, plan=plan)
    return Candidate(family, name, bind, plan.floats, plan.dy if plan.dy.packed else None)


def sides(math: str, shape: ConvShape, layouts: Layouts) -> list[tuple[Reading, Reading]]:
    """The ways to read x and dy, which hold the same kind of numbers; a rule expects the first to be
    fastest."""
    x = readings(math, shape.n, shape.group, shape.group_c, shape.h * shape.w, layouts.x)
    dy = readings(math, shape.n, shape.group, shape.group_k, shape.p * shape.q, layouts.y)
    if math == "tf32":  # packed or not, they are floats
        return [(x[0], dy[0])]
    both = [(x[0], dy[0])] if x[0].number == dy[0].number == "float" else []
    packed = (x[-1], dy[-1])
    return [packed, *both] if pays_to_pack(math, shape) else [*both, packed]


def candidates(device: Device, shape: ConvShape, math: str, layouts: Layouts) -> list[Candidate]:
    """What can run the direction; a rule expects the first to be fastest."""
    return [
        filters_candidate(Plan(shape, x, dy, *split))
        for x, dy in sides(math, shape, layouts)
        for split in splits(device, shape, x)
    ]
