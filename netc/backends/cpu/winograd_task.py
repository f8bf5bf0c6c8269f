"""What Winograd's convolution has to do: which images and filters, in how many tiles, and whether it pays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from netc.backends.cpu.geometry import Geometry
from netc.layer import Shape

POINTS: Final = 36
CELLS: Final = {3: 4, 5: 2}  # by the filter's size: those of a tile along an axis
FLOAT: Final = 4  # bytes
BLOCK_BYTES: Final = 8 << 20  # of a block's points
LEAST_TILES, MOST_TILES = 64, 512  # of a block

# What the choice between this and a direct convolution goes by, in multiplications of a direct one in the
# same time:
POINT_COST: Final = 15  # a point of a tile, made and written
FILTER_POINT_COST: Final = 48  # a point of a filter, likewise
HELD_POINT_COST: Final = 12  # the same, when it is there already
START_COST: Final = 16  # what a short side of a product lacks to be as fast as if it were longer by so much
GRADIENT_SHARE: Final = 0.7  # of their best speed that direct gradients of filters reach


@dataclass(frozen=True)
class Task:
    """A convolution, or its gradient, of one group: an image and its padding, tiles of `cells` x `cells`
    of the other image, and how many channels both have.
    """

    image: Shape  # (N, H, W): what the filters slide over
    result: Shape  # (N, P, Q)
    padding: Shape
    size: int  # of the filters
    groups: int
    inputs: int  # channels of a group
    outputs: int
    direct: int  # the multiplications of a direct convolution

    @property
    def cells(self) -> int:
        return CELLS[self.size]

    @property
    def down(self) -> int:
        return -(-self.result[1] // self.cells)

    @property
    def across(self) -> int:
        return -(-self.result[2] // self.cells)

    @property
    def tiles(self) -> int:
        return self.image[0] * self.down * self.across

    def block(self, least: int = LEAST_TILES) -> int:
        """The tiles that go through at a time, alike in number."""
        each = POINTS * FLOAT * (self.inputs + self.outputs)
        most = max(least, min(MOST_TILES, BLOCK_BYTES // each))
        return -(-self.tiles // -(-self.tiles // most))

    def cost(self, filter_point: int, *short: int) -> float:
        """Of all groups. filter_point: of a point of a filter; short: the sides of the products' matrices
        that may be short."""
        pairs = self.inputs * self.outputs
        products = self.tiles * pairs * (1 + sum(START_COST / side for side in short))
        made = POINT_COST * self.tiles * (self.inputs + self.outputs)
        return self.groups * POINTS * (products + made + filter_point * pairs)

    def pays(self, *, held: bool = False) -> bool:
        """Whether it takes less time than a direct one; held: whether the filters' points are there."""
        return self.cost(HELD_POINT_COST if held else FILTER_POINT_COST, self.inputs) < self.direct

    @property
    def gradient_pays(self) -> bool:
        """The same of the filters' gradient."""
        return self.cost(FILTER_POINT_COST, self.inputs, self.outputs) < self.direct / GRADIENT_SHARE


def blocks(tiles: int, block: int) -> Iterator[tuple[int, int]]:
    """The first tile of each block, and their number."""
    for first in range(0, tiles, block):
        yield first, min(block, tiles - first)


def forward_task(geometry: Geometry) -> Task | None:
    """The task of a convolution's forward pass; None where it is not of the kind that has one."""
    if len(geometry.bottom) != 4 or set(geometry.stride) != {1} or set(geometry.gaps) != {0}:
        return None
    *groups, filters, channels, height, width = geometry.weight
    if height != width or height not in CELLS:
        return None
    images, _, *bottom = geometry.bottom
    return Task(
        (images, *bottom),
        (images, *geometry.top[2:]),
        geometry.before,
        height,
        groups[0] if groups else 1,
        channels,
        filters,
        geometry.flops // 2,
    )


def data_task(task: Task) -> Task:
    """Of the bottom's gradient: the filters, turned, slide over the top's."""
    padding = tuple(task.size - 1 - pad for pad in task.padding)
    sides = (task.result, task.image, padding)
    return Task(*sides, task.size, task.groups, task.outputs, task.inputs, task.direct)
