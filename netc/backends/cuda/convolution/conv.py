"""Convolution in fp32 on the ordinary cores: the tables of kernels/conv.cu and conv_weights.cu, launches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.convolution.channel_sum import add_partials
from netc.backends.cuda.convolution.conv_terms import (
    ROW_MULTIPLE,
    Tables,
    backward_data_tables,
    forward_tables,
)
from netc.backends.cuda.convolution.shape import ConvShape, Sizes, pieces
from netc.backends.cuda.convolution.work import Candidate, Filters, Images, workspace_of
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.launching import Launch, Table, in_order
from netc.backends.cuda.launching.elementwise import PACKS, THREADS, pack_of
from netc.backends.cuda.tuning.tiles_to_try import without_padding, worth_trying
from netc.backends.form import Run

PARTS_PER_PROCESSOR = (1, 2, 4)  # blocks of `correlate` that a processor may be given
LOAD_PRODUCTS = 8  # instructions to load a number and put it in its place, for each of its products
LEAST_TERMS = 256  # of a part of a split sum: fewer cost more in partial sums than they gain
MOST_PARTIALS = 1 << 24  # floats
SQUARE = 32  # of `turn_filters`
MOST_TURNING = 1024  # blocks


@dataclass(frozen=True)
class Tile:
    """A block's share: m x n results, k terms at a time; a thread's: inner_m x inner_n results."""

    m: int
    n: int
    k: int
    inner_m: int
    inner_n: int

    @property
    def threads(self) -> int:
        return self.m // self.inner_m * (self.n // self.inner_n)

    @property
    def sizes(self) -> str:
        return f"{self.m}, {self.n}, {self.k}, {self.inner_m}, {self.inner_n}"

    @property
    def work(self) -> int:
        """Of a block for one term: its products, and its loads as so many products each."""
        return self.m * self.n + LOAD_PRODUCTS * (self.m + self.n)

    def blocks(self, rows: int, columns: int) -> int:
        return pieces(rows, self.m) * pieces(columns, self.n)


# From large to small. Rows are filters; the last of the images' tiles is for few of them, as in first layers.
IMAGE_TILES = (Tile(128, 128, 8, 8, 8), Tile(64, 128, 8, 8, 8), Tile(32, 128, 16, 4, 8))
# Columns are the weights of a filter, of which first layers have few: the last tile is for them.
WEIGHT_TILES = (Tile(128, 64, 8, 8, 8), Tile(64, 64, 8, 8, 4), Tile(64, 32, 8, 4, 4))
# How the images' side is read, and with which tiles.
SOURCES = {
    "masked": ("MaskedTile", IMAGE_TILES),
    "compared": ("ComparedTile", IMAGE_TILES[-1:]),
    "planes": ("PlaneTile", IMAGE_TILES),
}


# Also by whether there is more to the ending than a bias and a ReLU.
CONVOLVE = {
    (source, tile, long): Variant(
        f"conv {source} {tile.m}x{tile.n}{' long' if long else ''}",
        "conv.cu",
        f"convolve<{structure}, {tile.sizes}, {str(long).lower()}>",
        tile.threads,
    )
    for source, (structure, tiles) in SOURCES.items()
    for tile in tiles
    for long in (False, True)
}
CORRELATE = {
    tile: Variant(
        f"conv weights {tile.m}x{tile.n}", "conv_weights.cu", f"correlate<{tile.sizes}>", tile.threads
    )
    for tile in WEIGHT_TILES
}
TURN_FILTERS = Variant("conv turn_filters", "conv.cu", "turn_filters<>", THREADS)
VARIANTS = (*CONVOLVE.values(), *CORRELATE.values(), TURN_FILTERS)


def choose_tile(tiles: Sequence[Tile], rows: int, columns: int, groups: int, blocks: int) -> Tile:
    """Of the tiles of which there are as many as `blocks`, the one with the least to do; else the last.

    What a tile has to do are its results, those beyond the edges too, and the loads that go with them.
    """
    enough = [tile for tile in tiles if tile.blocks(rows, columns) * groups >= blocks]
    return min(enough, key=lambda tile: tile.blocks(rows, columns) * tile.work, default=tiles[-1])


# ---- forward, and backward to x ----
TABLES = {"forward": forward_tables, "backward_data": backward_data_tables}


def bind_images(device: Device, shape: ConvShape, work: Images, tables: Tables, tile: Tile) -> Run:
    """Binds `convolve` in the direction that the tables are for."""
    classes = Table.of(device, tables.classes, "convolution classes")
    if reads_filters_as_they_are(tables, work.w):
        return _convolve(device, shape, work, tables, tile, classes, work.w)
    turned = workspace_of(work, tables.weights)
    turning = _turn_filters(device, shape, work.w, turned, tables, classes)
    return in_order(turning, _convolve(device, shape, work, tables, tile, classes, turned))


def reads_filters_as_they_are(tables: Tables, w: Memory) -> bool:
    """Whether the filters lie as `convolve` reads them, in the one class that has any if one has: all rows of
    a term side by side."""
    terms, padded = tables.classes["terms"], tables.classes["padded_terms"]
    as_read = tables.row_step == 1 and tables.rows % ROW_MULTIPLE == 0 and (terms == padded).all()
    return not tables.weights or bool(as_read and (terms > 0).sum() == 1 and pack_of(w) == PACKS[0])


def image_tiles(device: Device, shape: ConvShape, tables: Tables) -> list[Tile]:
    """All that a tuner should try, of which the first should be fastest."""
    tiles = SOURCES["masked" if tables.masked else "compared"][1]
    columns, processors = shape.n * tables.most_cells, device.properties.processors
    work = tables.rows, columns, shape.group, processors
    return list(dict.fromkeys((choose_tile(tiles, *work), *worth_trying(tiles, *work))))


def _turn_filters(
    device: Device, shape: ConvShape, w: Memory, turned: Memory, tables: Tables, classes: Table
) -> Run:
    places = Table.of(device, tables.places, "convolution places")
    sizes = (tables.rows, tables.row_step, shape.weight_count // shape.group)
    squares = pieces(tables.rows, SQUARE) * pieces(int(tables.classes["padded_terms"].max()), SQUARE)
    grid = (max(1, min(squares, MOST_TURNING)), shape.group, len(tables.classes))
    arguments: list[Argument] = [classes.memory, places.memory, *map(np.int32, sizes), w, turned]
    return Launch.of(device, TURN_FILTERS, grid, arguments, classes, places)


def _convolve(
    device: Device,
    shape: ConvShape,
    work: Images,
    tables: Tables,
    tile: Tile,
    classes: Table,
    filters: Memory,
) -> Run:
    """The launch of `convolve` once the filters lie as it reads them."""
    planes = shape.is_pointwise and in_packs(work.source, tables.source)
    kind = "planes" if planes else "masked" if tables.masked else "compared"
    images = [work.target, *([work.residual] if work.residual else [])]
    packed = tables.target_step == (1, 1) and all(in_packs(each, tables.target) for each in images)
    terms = Table.of(device, tables.terms, "convolution terms")
    arguments: list[Argument] = [np.int32(shape.n), classes.memory, terms.memory, filters]
    arguments += [work.source, *map(np.int32, (*tables.source, *tables.step))]
    arguments += [work.target, *map(np.int32, (*tables.target, *tables.target_step))]
    arguments += [*work.ending, np.bool_(packed), work.moments]
    blocks = tile.blocks(tables.rows, shape.n * tables.most_cells)
    grid = (blocks, shape.group, len(tables.classes))
    return Launch.of(device, CONVOLVE[kind, tile, work.ends_long], grid, arguments, classes, terms)


def in_packs(images: Memory, sizes: Sizes) -> bool:
    """Whether every channel begins at a multiple of 16 bytes and is a multiple of them."""
    return sizes[1] * sizes[2] % PACKS[0] == 0 and pack_of(images) == PACKS[0]


# ---- backward to the filters ----
@dataclass(frozen=True)
class Split:
    """How the cells that `correlate` sums over are shared out, and the tile that it works with."""

    tile: Tile
    parts: int
    cells_each: int

    @classmethod
    def of(cls, tile: Tile, shape: ConvShape, blocks: int) -> Split:
        """So many parts that there are about `blocks` blocks, but each of them with enough to do."""
        cells = shape.n * shape.p * shape.q
        wanted = pieces(blocks, tile.blocks(shape.group_k, shape.group_c * shape.taps) * shape.group)
        most = min(cells // LEAST_TERMS, MOST_PARTIALS // shape.weight_count)
        each = pieces(pieces(cells, max(1, min(wanted, most))), tile.k) * tile.k
        return cls(tile, pieces(cells, each), each)

    def floats(self, shape: ConvShape) -> int:
        """Room for the sums of each part, where there are several."""
        return self.parts * shape.weight_count if self.parts > 1 else 0


def splits(device: Device, shape: ConvShape) -> list[Split]:
    """All that a tuner should try, of which the first should be fastest: the tile with the least to do, where
    the cells can be shared out as finely as is needed."""
    sizes = shape.group_k, shape.group_c * shape.taps
    tile = choose_tile(WEIGHT_TILES, *sizes, 1, 0)
    blocks = [count * device.properties.processors for count in PARTS_PER_PROCESSOR]
    tiles = without_padding(WEIGHT_TILES, *sizes)
    others = (Split.of(tile, shape, count) for tile in tiles for count in blocks)
    return list(dict.fromkeys((Split.of(tile, shape, blocks[-1]), *others)))


def bind_filters(device: Device, shape: ConvShape, work: Filters, split: Split) -> Run:
    """Binds `correlate`."""
    grid = (split.tile.blocks(shape.group_k, shape.group_c * shape.taps), shape.group, split.parts)
    plane, step = shape.p * shape.q, split.tile.k
    window = (*shape.stride, *shape.pad, *shape.dilation)
    steps = (step // plane, step % plane // shape.q, step % shape.q)
    arguments: list[Argument] = [np.int32(shape.n), np.uint32(split.cells_each)]
    arguments += [work.x, *map(np.int32, shape.x_sizes)]
    arguments += [work.dy, *map(np.int32, (*shape.y_sizes, shape.r, shape.s, *window, *steps))]
    sums = workspace_of(work, split.floats(shape)) if split.parts > 1 else None
    products = Launch.of(device, CORRELATE[split.tile], grid, [*arguments, work.dw, sums])
    if sums is None:
        return products
    return in_order(products, add_partials(device, shape.weight_count, split.parts, sums, work.dw))


def candidates(direction: str, device: Device, shape: ConvShape) -> list[Candidate]:
    """What can run a direction; a rule expects the first to be fastest."""
    if direction == "backward_weights":
        return [
            Candidate(
                "simt",
                f"simt {split.tile.m}x{split.tile.n} in {split.parts}",
                partial(bind_filters, split=split),
                split.floats(shape),
            )
            for split in splits(device, shape)
        ]
    tables = TABLES[direction](shape)
    return [
        Candidate(
            "simt",
            f"simt {tile.m}x{tile.n}",
            partial(bind_images, tables=tables, tile=tile),
            tables.weights,
            moment_parts=pieces(shape.n * shape.p * shape.q, tile.n) if direction == "forward" else 0,
        )
        for tile in image_tiles(device, shape, tables)
    ]
