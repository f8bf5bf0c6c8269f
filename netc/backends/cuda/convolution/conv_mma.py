"""Convolution on tensor cores: the tables of kernels/conv_mma.cu and conv_mma_weights.cu, their launches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.convolution.channel_sum import add_partials
from netc.backends.cuda.convolution.shape import MOST_BLOCKS, ConvShape, pieces
from netc.backends.cuda.convolution.work import Candidate, Filters, Images, workspace_of
from netc.backends.cuda.device import Argument, Device
from netc.backends.cuda.launching import Launch, in_order
from netc.backends.cuda.launching.division import divisor
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES, THREADS, blocks_for
from netc.backends.cuda.tuning.tiles_to_try import without_padding, worth_trying
from netc.backends.form import Run
from netc.errors import NetcError

WARP = 32
ROW_BYTES = 64  # of one packed row of filters
TABLE_ROWS = 2048  # the most channels times taps of layers whose steps are made of both
TABLE_BYTES = TABLE_ROWS * 8
MOST_SHARE_BYTES = 256 << 20  # of the sums that backward-weights leaves for its second stage
WEIGHT_BLOCKS = (1, 2, 4)  # for half a processor: how finely the filters' sums may be split
LEAST_STEPS = 8  # of a share: fewer do not pay for its second stage
NUMBERS = {"tf32": "float", "bf16": "bf16", "fp16": "fp16"}  # what filters are packed as


@dataclass(frozen=True)
class Tile:
    """A block's share of the work.

    m, n: rows (output channels) and columns (cells, or channels and taps for the filters' gradient); warp_m,
    warp_n: those of a warp; stages: the steps under way at once.
    """

    math: str
    m: int
    n: int
    warp_m: int
    warp_n: int
    stages: int

    @property
    def threads(self) -> int:
        return (self.m // self.warp_m) * (self.n // self.warp_n) * WARP

    @property
    def is_narrow(self) -> bool:
        return self.math != "tf32"

    @property
    def step(self) -> int:
        """Numbers of a packed row, and cells of a step of the filters' gradient."""
        return 32 if self.is_narrow else 16

    def blocks(self, rows: int, columns: int) -> int:
        return pieces(rows, self.m) * pieces(columns, self.n)

    def shared_bytes(self, table: bool) -> int:
        """Dynamic shared memory of conv_tf32 or conv_narrow."""
        more = TABLE_BYTES if table else 0
        if self.is_narrow:
            return self.stages * (self.m + self.n) * (self.step + 8) * 2 + more
        return self.stages * (self.m * (self.step + 4) + self.step * (self.n + 8)) * FLOAT_BYTES + more

    @property
    def weights_shared_bytes(self) -> int:
        """Dynamic shared memory of conv_weights_tf32; that of conv_weights_narrow is static."""
        return 0 if self.is_narrow else self.stages * (self.m + self.n) * (self.step + 4) * FLOAT_BYTES


TILES = (
    Tile("tf32", 128, 128, 64, 32, stages=4),
    Tile("tf32", 64, 64, 32, 32, stages=4),
    Tile("bf16", 128, 128, 64, 32, stages=2),
    Tile("bf16", 64, 64, 32, 32, stages=2),
    Tile("fp16", 128, 128, 64, 32, stages=2),
    Tile("fp16", 64, 64, 32, 32, stages=2),
)


def _data_variant(tile: Tile, table: bool, long: bool) -> Variant:
    sizes = f"{tile.m}, {tile.n}, {tile.warp_m}, {tile.warp_n}"
    kernel = f"conv_narrow<{tile.math}, {sizes}" if tile.is_narrow else f"conv_tf32<{sizes}, {tile.stages}"
    return Variant(
        f"conv {tile.math} {tile.m}x{tile.n}{' table' if table else ''}{' long' if long else ''}",
        "conv_mma.cu",
        f"{kernel}, {str(table).lower()}, {str(long).lower()}>",
        tile.threads,
        tile.shared_bytes(table),
        architecture=80,
    )


def _weights_variant(tile: Tile) -> Variant:
    sizes = f"{tile.m}, {tile.n}, {tile.step}, {tile.warp_m}, {tile.warp_n}"
    narrow = f"conv_weights_narrow<{tile.math}, {sizes}>"
    return Variant(
        f"conv weights {tile.math} {tile.m}x{tile.n}",
        "conv_mma_weights.cu",
        narrow if tile.is_narrow else f"conv_weights_tf32<{sizes}, {tile.stages}>",
        tile.threads,
        tile.weights_shared_bytes,
        architecture=80,
    )


# By tile, whether channels and taps are one axis, and whether the ending is more than a bias and a ReLU.
DATA = {
    (tile, table, long): _data_variant(tile, table, long)
    for tile in TILES
    for table in (False, True)
    for long in (False, True)
}
WEIGHTS = {tile: _weights_variant(tile) for tile in TILES}
PACK = {
    math: Variant(f"pack filters {math}", "conv_mma.cu", f"pack_filters<{number}>", THREADS, architecture=80)
    for math, number in NUMBERS.items()
}
VARIANTS: tuple[Variant, ...] = (*DATA.values(), *WEIGHTS.values(), *PACK.values())


@dataclass(frozen=True)
class Packing:
    """How filters are packed: for each group, chunk of `step` channels and tap, `rows` rows of `step`
    numbers.

    table: channels and taps of the layer both count as channels. row_stride, channel_stride: how far
    neighbours lie apart in the filters.
    """

    math: str
    groups: int
    rows: int
    channels: int
    taps: int
    row_stride: int
    channel_stride: int
    table: bool = False

    @property
    def step(self) -> int:
        return 16 if self.math == "tf32" else 32

    @property
    def chunks(self) -> int:
        return pieces(self.channels, self.step)

    @property
    def count(self) -> int:
        """Packed numbers."""
        return self.groups * self.chunks * self.taps * self.rows * self.step

    @property
    def floats(self) -> int:
        """Floats that they take."""
        return self.count * ROW_BYTES // (self.step * FLOAT_BYTES)


def forward_packing(math: str, shape: ConvShape) -> Packing:
    """Channels and taps become one axis where whole chunks of channels would be filled up with many zeros."""
    taps, depth = shape.taps, shape.group_c * shape.taps
    plain = Packing(math, shape.group, shape.group_k, shape.group_c, taps, depth, taps)
    together = Packing(math, shape.group, shape.group_k, depth, 1, depth, 1, table=True)
    room = together.chunks * together.step <= TABLE_ROWS
    return together if taps > 1 and room and plain.count > 1.2 * together.count else plain


def backward_packing(math: str, shape: ConvShape) -> Packing:
    """The bottom's channels are the rows; the top's are summed over."""
    taps, depth = shape.taps, shape.group_c * shape.taps
    return Packing(math, shape.group, shape.group_c, shape.group_k, taps, taps, depth)


@dataclass(frozen=True)
class Plan:
    """How a direction that makes images is computed.

    columns: cells of the images, or of the first phase of them where there are several; others: the products
    of so many groups and phases; sizes: images, then channels of a group, height and width of either side.
    """

    packing: Packing
    columns: int
    others: int
    sizes: tuple[int, ...]
    backward: bool

    @classmethod
    def of(cls, direction: str, math: str, shape: ConvShape) -> Plan:
        x, y = (shape.group_c, shape.h, shape.w), (shape.group_k, shape.p, shape.q)
        if direction == "forward":
            columns = shape.n * shape.p * shape.q
            return cls(forward_packing(math, shape), columns, shape.group, (shape.n, *x, *y), False)
        # The cells of x that meet the first kernel position of a backward pass with a stride.
        columns = shape.n * pieces(shape.h, shape.stride[0]) * pieces(shape.w, shape.stride[1])
        others = shape.group * shape.stride[0] * shape.stride[1]
        return cls(backward_packing(math, shape), columns, others, (shape.n, *y, *x), True)

    def tiles(self, device: Device) -> list[Tile]:
        """All that a tuner should try, of which the first should be fastest."""
        math, processors = self.packing.math, device.properties.processors
        work = self.packing.rows, self.columns, self.others, processors
        return list(dict.fromkeys((choose_tile(math, *work), *worth_trying(tiles(math), *work))))

    def grid(self, tile: Tile) -> tuple[int, int, int]:
        return tile.blocks(self.packing.rows, self.columns), 1, self.others


def tiles(math: str) -> list[Tile]:
    """All of a math mode that a tuner should try. Raises NetcError where there are none."""
    found = [tile for tile in TILES if tile.math == math]
    if not found:
        raise NetcError(
            "there is no convolution on tensor cores in this math mode",
            expected=" or ".join(NUMBERS),
            found=math,
        )
    return found


def choose_tile(math: str, rows: int, columns: int, others: int, processors: int) -> Tile:
    """The largest tile of which there are enough to occupy the device, and that is not mostly padding."""
    found = tiles(math)

    def area(tile: Tile) -> int:
        return tile.blocks(rows, columns) * tile.m * tile.n

    least = area(found[-1])
    for tile in found:
        if tile.blocks(rows, columns) * others >= processors and area(tile) <= 1.4 * least:
            return tile
    return found[-1]


def choose_shares(shape: ConvShape, tile: Tile, processors: int) -> int:
    """Into how many shares the cells are split: enough blocks for two on each processor, as memory allows."""
    blocks = tile.blocks(shape.group_k, shape.group_c * shape.taps) * shape.group
    steps = pieces(shape.n * shape.p * shape.q, tile.step)
    wanted = min(pieces(2 * processors, blocks), steps // LEAST_STEPS)
    room = MOST_SHARE_BYTES // (shape.weight_count * FLOAT_BYTES)
    return max(1, min(wanted, room, MOST_BLOCKS))


def splits(math: str, device: Device, shape: ConvShape) -> list[tuple[Tile, int]]:
    """Tiles for the filters' gradient and shares of its cells: all that a tuner should try, of which the
    first should be fastest. Shares make up for few tiles, so only padding speaks against a large one."""
    processors = device.properties.processors
    others = shape.group * max(1, pieces(shape.n * shape.p * shape.q, 32) // LEAST_STEPS)
    sizes = shape.group_k, shape.group_c * shape.taps
    rule = choose_tile(math, *sizes, others, processors)
    more = (
        (tile, choose_shares(shape, tile, pieces(blocks * processors, 2)))
        for tile in without_padding(tiles(math), *sizes)
        for blocks in WEIGHT_BLOCKS
    )
    return list(dict.fromkeys(((rule, choose_shares(shape, rule, processors)), *more)))


def bind_images(device: Device, shape: ConvShape, work: Images, plan: Plan, tile: Tile) -> Run:
    """Binds the packing of the filters, and the convolution with them."""
    packing = plan.packing
    packed = workspace_of(work, packing.floats)
    numbers = (packing.channels, packing.taps, packing.row_stride, packing.channel_stride)
    pack_arguments: list[Argument] = [np.int64(packing.count), np.int32(packing.rows)]
    pack_arguments += [*map(np.int32, numbers), work.w, packed]
    pack = Launch.of(device, PACK[packing.math], (blocks_for(device, packing.count, 1),), pack_arguments)
    window = (shape.r, shape.s, *shape.stride, *shape.pad, *shape.dilation, shape.group)
    arguments: list[Argument] = [*map(np.int32, (*plan.sizes, *window)), np.bool_(plan.backward)]
    arguments += [work.source, packed, *work.ending, work.target, work.moments]
    return in_order(
        pack, Launch.of(device, DATA[tile, packing.table, work.ends_long], plan.grid(tile), arguments)
    )


def bind_filters(device: Device, shape: ConvShape, work: Filters, tile: Tile, shares: int) -> Run:
    """Binds dw += dy * x; the workspace takes the sums of the shares."""
    cells = shape.n * shape.p * shape.q
    share = pieces(pieces(cells, tile.step), shares)
    sums = work.dw if shares == 1 else workspace_of(work, shares * shape.weight_count)
    grid = (tile.blocks(shape.group_k, shape.group_c * shape.taps), shares, shape.group)
    sizes = (*shape.x_sizes, shape.k, shape.r, shape.s, shape.p, shape.q)
    window = (*shape.stride, *shape.pad, *shape.dilation, shape.group)
    arguments: list[Argument] = [np.int64(cells), *map(np.int32, (*sizes, *window))]
    arguments += [*divisor(shape.p * shape.q), *divisor(shape.q), np.int32(share), work.x, work.dy, sums]
    products = Launch.of(device, WEIGHTS[tile], grid, arguments)
    if shares == 1:
        return products
    return in_order(products, add_partials(device, shape.weight_count, shares, sums, work.dw))


def images_candidate(plan: Plan, tile: Tile) -> Candidate:
    """One direction to images with a tile."""
    family = f"mma {tile.math}"
    bind = partial(bind_images, plan=plan, tile=tile)
    parts = 0 if plan.backward else pieces(plan.columns, tile.n)
    return Candidate(family, f"{family} {tile.m}x{tile.n}", bind, plan.packing.floats, moment_parts=parts)


def filters_candidate(shape: ConvShape, tile: Tile, shares: int) -> Candidate:
    """The direction to the filters with a tile and so many shares."""
    family = f"mma {tile.math}"
    bind = partial(bind_filters, tile=tile, shares=shares)
    floats = 0 if shares == 1 else shares * shape.weight_count
    return Candidate(family, f"{family} {tile.m}x{tile.n} in {shares}", bind, floats)


def candidates(direction: str, device: Device, shape: ConvShape, math: str) -> list[Candidate]:
    """What can run a direction; a rule expects the first to be fastest."""
    if direction == "backward_weights":
        return [filters_candidate(shape, *split) for split in splits(math, device, shape)]
    plan = Plan.of(direction, math, shape)
    return [images_candidate(plan, tile) for tile in plan.tiles(device)]
