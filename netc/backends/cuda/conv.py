"""Convolution in fp32 on the ordinary cores: the tables of kernels/conv.cu and conv_weights.cu, launches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from netc.backends.cuda.channel_sum import add_partials
from netc.backends.cuda.conv_shape import ConvKernels, ConvShape
from netc.backends.cuda.conv_terms import ROW_MULTIPLE, Tables, backward_data_tables, forward_tables
from netc.backends.cuda.device import Argument, Device
from netc.backends.cuda.elementwise import PACKS, THREADS, pack_of
from netc.backends.cuda.kernel import Variant
from netc.backends.cuda.launch import Launch, Table, one_after_another
from netc.backends.cuda.memory import Memory
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
        return _up(rows, self.m) * _up(columns, self.n)


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


CONVOLVE = {
    (source, tile): Variant(
        f"conv {source} {tile.m}x{tile.n}", "conv.cu", f"convolve<{structure}, {tile.sizes}>", tile.threads
    )
    for source, (structure, tiles) in SOURCES.items()
    for tile in tiles
}
CORRELATE = {
    tile: Variant(
        f"conv weights {tile.m}x{tile.n}", "conv_weights.cu", f"correlate<{tile.sizes}>", tile.threads
    )
    for tile in WEIGHT_TILES
}
TURN_FILTERS = Variant("conv turn_filters", "conv.cu", "turn_filters", THREADS)
VARIANTS = (*CONVOLVE.values(), *CORRELATE.values(), TURN_FILTERS)


def choose_tile(tiles: Sequence[Tile], rows: int, columns: int, groups: int, blocks: int) -> Tile:
    """Of the tiles of which there are as many as `blocks`, the one with the least to do; else the last.

    What a tile has to do are its results, those beyond the edges too, and the loads that go with them.
    """
    enough = [tile for tile in tiles if tile.blocks(rows, columns) * groups >= blocks]
    return min(enough, key=lambda tile: tile.blocks(rows, columns) * tile.work, default=tiles[-1])


# ---- forward, and backward to x ----
@dataclass(frozen=True)
class Side:
    """The images of one side of a product: channels, height and width."""

    memory: Memory
    sizes: tuple[int, int, int]

    @property
    def in_packs(self) -> bool:
        """Whether every channel begins at a multiple of 16 bytes and is a multiple of them."""
        return self.sizes[1] * self.sizes[2] % PACKS[0] == 0 and pack_of(self.memory) == PACKS[0]


def _bind(
    device: Device,
    shape: ConvShape,
    tables: Tables,
    source: Side,
    w: Memory,
    target: Side,
    after: tuple[Memory | None, float],
    workspace: Memory | None,
    tile: Tile | None,
) -> Run:
    """Binds `convolve` in either direction; `after`: a bias, and the slope of a ReLU."""
    classes = Table.of(device, tables.classes, "convolution classes")
    terms = Table.of(device, tables.terms, "convolution terms")
    if reads_filters_as_they_are(tables, w):
        return _images(device, shape, tables, (classes, terms), source, w, target, after, tile)
    assert workspace is not None
    places = Table.of(device, tables.places, "convolution places")
    sizes = [np.int32(n) for n in (tables.rows, tables.row_step, shape.weight_count // shape.group)]
    squares = _up(tables.rows, SQUARE) * _up(int(tables.classes["padded_terms"].max()), SQUARE)
    grid = (max(1, min(squares, MOST_TURNING)), shape.group, len(tables.classes))
    arguments: list[Argument] = [classes.memory, places.memory, *sizes, w, workspace]
    turn = Launch.of(device, TURN_FILTERS, grid, arguments, classes, places)
    images = _images(device, shape, tables, (classes, terms), source, workspace, target, after, tile)
    return one_after_another(turn, images)


def reads_filters_as_they_are(tables: Tables, w: Memory) -> bool:
    """Whether the filters lie as `convolve` reads them, in the one class that has any if one has: all rows of
    a term side by side."""
    terms, padded = tables.classes["terms"], tables.classes["padded_terms"]
    as_read = tables.row_step == 1 and tables.rows % ROW_MULTIPLE == 0 and (terms == padded).all()
    return not tables.weights or bool(as_read and (terms > 0).sum() == 1 and pack_of(w) == PACKS[0])


def image_tiles(tables: Tables) -> Sequence[Tile]:
    """All that a tuner should try."""
    return SOURCES["masked" if tables.masked else "compared"][1]


def choose_image_tile(device: Device, shape: ConvShape, tables: Tables) -> Tile:
    """The one of them that should be fastest."""
    columns, processors = shape.n * tables.most_cells, device.properties.processors
    return choose_tile(image_tiles(tables), tables.rows, columns, shape.group, processors)


def _images(
    device: Device,
    shape: ConvShape,
    tables: Tables,
    on_device: tuple[Table, Table],
    source: Side,
    turned: Memory,
    target: Side,
    after: tuple[Memory | None, float],
    tile: Tile | None,
) -> Run:
    """The launch of `convolve` once the filters are turned."""
    columns = shape.n * tables.most_cells
    planes = shape.is_pointwise and source.in_packs
    kind = "planes" if planes else "masked" if tables.masked else "compared"
    tile = tile or choose_image_tile(device, shape, tables)
    packed = target.in_packs and tables.target_step == (1, 1)
    classes, terms = on_device
    arguments: list[Argument] = [np.int32(shape.n), classes.memory, terms.memory, turned]
    arguments += [source.memory, *map(np.int32, (*source.sizes, *tables.step))]
    arguments += [target.memory, *map(np.int32, (*target.sizes, *tables.target_step))]
    arguments += [after[0], np.float32(after[1]), np.bool_(packed)]
    grid = (tile.blocks(tables.rows, columns), shape.group, len(tables.classes))
    return Launch.of(device, CONVOLVE[kind, tile], grid, arguments, *on_device)


def forward(
    device: Device,
    shape: ConvShape,
    x: Memory,
    w: Memory,
    y: Memory,
    bias: Memory | None = None,
    slope: float = 1.0,
    workspace: Memory | None = None,
    tile: Tile | None = None,
) -> Run:
    """Binds y = relu(w * x + bias)."""
    source, target = Side(x, (shape.c, shape.h, shape.w)), Side(y, (shape.k, shape.p, shape.q))
    return _bind(device, shape, forward_tables(shape), source, w, target, (bias, slope), workspace, tile)


def backward_data(
    device: Device,
    shape: ConvShape,
    dy: Memory,
    w: Memory,
    dx: Memory,
    bias: Memory | None = None,
    slope: float = 1.0,
    workspace: Memory | None = None,
    tile: Tile | None = None,
) -> Run:
    """Binds dx = relu(w turned * dy + bias)."""
    source, target = Side(dy, (shape.k, shape.p, shape.q)), Side(dx, (shape.c, shape.h, shape.w))
    return _bind(
        device, shape, backward_data_tables(shape), source, w, target, (bias, slope), workspace, tile
    )


def forward_floats(device: Device, shape: ConvShape) -> int:
    """Room for the filters as the kernel reads them."""
    return forward_tables(shape).weights


def backward_data_floats(device: Device, shape: ConvShape) -> int:
    """Room for the filters as the kernel reads them."""
    return backward_data_tables(shape).weights


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
        wanted = _up(blocks, tile.blocks(shape.group_k, shape.group_c * shape.taps) * shape.group)
        most = min(cells // LEAST_TERMS, MOST_PARTIALS // shape.weight_count)
        each = _up(_up(cells, max(1, min(wanted, most))), tile.k) * tile.k
        return cls(tile, _up(cells, each), each)

    def floats(self, shape: ConvShape) -> int:
        """Room for the sums of each part, where there are several."""
        return self.parts * shape.weight_count if self.parts > 1 else 0


def splits(device: Device, shape: ConvShape) -> list[Split]:
    """All that a tuner should try."""
    blocks = [count * device.properties.processors for count in PARTS_PER_PROCESSOR]
    return [Split.of(tile, shape, count) for tile in WEIGHT_TILES for count in blocks]


def choose_split(device: Device, shape: ConvShape) -> Split:
    """The tile with the least to do, where the cells can be shared out as finely as is needed."""
    tile = choose_tile(WEIGHT_TILES, shape.group_k, shape.group_c * shape.taps, 1, 0)
    return Split.of(tile, shape, PARTS_PER_PROCESSOR[-1] * device.properties.processors)


def backward_weights(
    device: Device,
    shape: ConvShape,
    x: Memory,
    dy: Memory,
    dw: Memory,
    workspace: Memory | None = None,
    split: Split | None = None,
) -> Run:
    """Binds dw += dy * x."""
    split = split or choose_split(device, shape)
    grid = (split.tile.blocks(shape.group_k, shape.group_c * shape.taps), shape.group, split.parts)
    plane, step = shape.p * shape.q, split.tile.k
    window = (*shape.stride, *shape.pad, *shape.dilation)
    steps = (step // plane, step % plane // shape.q, step % shape.q)
    arguments: list[Argument] = [np.int32(shape.n), np.uint32(split.cells_each)]
    arguments += [x, *map(np.int32, (shape.c, shape.h, shape.w))]
    arguments += [dy, *map(np.int32, (shape.k, shape.p, shape.q, shape.r, shape.s, *window, *steps))]
    arguments += [dw, workspace if split.parts > 1 else None]
    products = Launch.of(device, CORRELATE[split.tile], grid, arguments)
    if split.parts == 1:
        return products
    assert workspace is not None
    return one_after_another(products, add_partials(device, shape.weight_count, split.parts, workspace, dw))


def backward_weights_floats(device: Device, shape: ConvShape) -> int:
    """Room for partial sums, with the split that is chosen unless one is given."""
    return choose_split(device, shape).floats(shape)


def _up(a: int, b: int) -> int:
    return -(-a // b)


KERNELS = ConvKernels(
    "simt",
    forward,
    backward_data,
    backward_weights,
    forward_floats,
    backward_data_floats,
    backward_weights_floats,
)
