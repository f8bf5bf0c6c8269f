"""The tables by which kernels/conv.cu finds the cells and weights that meet: its terms and classes of cells.

Both directions that make images are one kind of sum over terms, which are channels times kernel positions. A
forward pass has one class of cells; in a backward pass with a stride a cell of x meets only those kernel
positions that leave the right remainder, so its cells fall into classes, each a sum without a stride.
(Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, section 4)
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from netc.backends.cuda.convolution.shape import ConvShape, Pair, Sizes

# Term and CellClass of kernels/conv.cu.
TERM = np.dtype([("offset", "i4"), ("bits", "u4"), ("row", "i4"), ("column", "i4")])
CELL_CLASS = np.dtype(
    [
        (name, "i4")
        for name in (
            *("terms", "padded_terms", "first_term", "rows", "columns"),
            *("first_row", "first_column", "first_weight"),
            *("tap_rows", "first_tap_row", "tap_row_step"),
            *("tap_columns", "first_tap_column", "tap_column_step"),
        )
    ]
)
ROW_BITS, COLUMN_BITS = 16, 15  # of a term; the last bit stands for no column
NOWHERE = 1 << 31
OUTSIDE = -(1 << 29)
TERM_MULTIPLE = 16  # of the terms of a class in the table, the last of which are outside all images
ROW_MULTIPLE = 4  # of the rows of a term, the last of which are zeros


@dataclass(frozen=True)
class Axis:
    """What is the same for all cells of a class along one axis.

    first: the first cell; cells: how many there are; taps: the kernel positions that meet them; first_source:
    the source cell that the first of these meets for the first cell; source_step: source cells from one of
    these positions to the next.
    """

    first: int
    cells: int
    taps: tuple[int, ...]
    first_source: int
    source_step: int

    @property
    def sources(self) -> list[int]:
        return [self.first_source + i * self.source_step for i in range(len(self.taps))]


@dataclass(frozen=True)
class Product:
    """How the filters of a group are read: rows, and the weights from one row, or one channel of the source,
    to the next."""

    groups: int
    rows: int
    row_step: int
    channel_step: int
    kernel_columns: int


@dataclass(frozen=True)
class Tables:
    """classes, terms: as the kernel reads them; places: where the weight of each term lies among a group's
    filters, for the first row; rows: of the product, in a group; row_step: weights from one to the next;
    weights: of all classes as the kernel reads them; source, target: the sizes of their images; step: source
    cells between neighbouring cells of a class; target_step: cells of the target between them."""

    classes: np.ndarray
    terms: np.ndarray
    places: np.ndarray
    rows: int
    row_step: int
    weights: int
    source: Sizes
    target: Sizes
    step: Pair
    target_step: Pair

    @property
    def most_cells(self) -> int:
        """Cells of an image in the largest class."""
        return int((self.classes["rows"].astype(np.int64) * self.classes["columns"]).max())

    @property
    def masked(self) -> bool:
        """Whether the kernel positions of every class have bits enough."""
        rows, columns = self.classes["tap_rows"].max(), self.classes["tap_columns"].max()
        return bool(rows <= ROW_BITS and columns <= COLUMN_BITS)


@lru_cache(64)
def forward_tables(shape: ConvShape) -> Tables:
    """Of y from x: the terms of a cell are the channels, rows and columns of a filter."""
    down, across = (
        [Axis(0, cells, tuple(range(size)), -pad, dilation)]
        for cells, size, pad, dilation in zip(
            (shape.p, shape.q), (shape.r, shape.s), shape.pad, shape.dilation, strict=True
        )
    )
    product_of = Product(shape.group, shape.group_k, shape.group_c * shape.taps, shape.taps, shape.s)
    return _tables(down, across, product_of, shape.x_sizes, shape.y_sizes, shape.stride, (1, 1))


@lru_cache(64)
def backward_data_tables(shape: ConvShape) -> Tables:
    """Of x from y: the terms of a cell are the filters, and those rows and columns that meet it."""
    down, across = (
        [_backward_axis(first, *sizes) for first in range(min(sizes[2], sizes[0]))]
        for sizes in zip(
            (shape.h, shape.w), (shape.r, shape.s), shape.stride, shape.pad, shape.dilation, strict=True
        )
    )
    product_of = Product(shape.group, shape.group_c, shape.taps, shape.group_c * shape.taps, shape.s)
    return _tables(down, across, product_of, shape.y_sizes, shape.x_sizes, (1, 1), shape.stride)


def _backward_axis(first: int, size: int, kernel: int, stride: int, pad: int, dilation: int) -> Axis:
    """Of x's cells first, first + stride, ...: the kernel positions that leave no remainder meet them."""
    reached = {at: first + pad - at * dilation for at in range(kernel)}
    taps = tuple(at for at, cell in reached.items() if cell % stride == 0)
    first_source = reached[taps[0]] // stride if taps else 0
    step = -dilation // math.gcd(stride, dilation)
    return Axis(first, -(-(size - first) // stride), taps, first_source, step)


def _tables(
    down: list[Axis],
    across: list[Axis],
    of: Product,
    source: Sizes,
    target: Sizes,
    step: Pair,
    target_step: Pair,
) -> Tables:
    """One class for each pair of axes."""
    image = (source[0] // of.groups, *source[1:])  # what a group reads
    parts, places, classes, first_term, first_weight = [], [], [], 0, 0
    for y, x in itertools.product(down, across):
        terms, weights = _terms(y, x, image, of)
        counts = (image[0] * len(y.taps) * len(x.taps), len(terms), first_term)
        firsts = (y.first, x.first, first_weight)
        taps = (len(y.taps), y.first_source, y.source_step, len(x.taps), x.first_source, x.source_step)
        classes.append((*counts, y.cells, x.cells, *firsts, *taps))
        parts.append(terms)
        places.append(weights)
        first_term += len(terms)
        first_weight += len(terms) * -(-of.rows // ROW_MULTIPLE) * ROW_MULTIPLE * of.groups
    as_arrays = (np.array(classes, CELL_CLASS), np.concatenate(parts), np.concatenate(places))
    return Tables(*as_arrays, of.rows, of.row_step, first_weight, source, target, step, target_step)


def _terms(down: Axis, across: Axis, image: Sizes, of: Product) -> tuple[np.ndarray, np.ndarray]:
    """One term, and the place of its weight, for each channel and kernel position of a class."""
    channels, height, width = image
    count = channels * len(down.taps) * len(across.taps)
    terms = np.zeros(-(-count // TERM_MULTIPLE) * TERM_MULTIPLE, TERM)
    places = np.zeros(len(terms), np.int32)
    terms["bits"], terms["row"] = NOWHERE, OUTSIDE
    sources = (range(channels), down.sources, across.sources)
    channel, row, column = (part.ravel() for part in np.meshgrid(*sources, indexing="ij"))
    _, r, s = (part.ravel() for part in np.meshgrid(range(channels), down.taps, across.taps, indexing="ij"))
    _, i, j = np.unravel_index(np.arange(count), (channels, len(down.taps), len(across.taps)))
    terms["offset"][:count] = (channel * height + row) * width + column
    terms["row"][:count], terms["column"][:count] = row, column
    if len(down.taps) <= ROW_BITS and len(across.taps) <= COLUMN_BITS:
        terms["bits"][:count] = (1 << i) | (1 << (ROW_BITS + j))
    places[:count] = channel * of.channel_step + r * of.kernel_columns + s
    return terms, places
