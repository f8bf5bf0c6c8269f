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
LEAST_TILES, MOST_TILES = 64, 512  # of a block
# A workspace: the filters' points, or the sums of their gradient's. One is over before the other begins.
FILTER_POINTS: Final = "points of the filters"
BLOCK_BYTES: Final = 3 << 19  # of the points of a block that one thread works on: they stay near its core
TEAM_BLOCK_BYTES: Final = 8 << 20  # the same for a team, which should seldom wait for all of its threads
BLOCKS_OF_SHARE: Final = 2  # that each thread gets at least, where blocks are dealt out
SHARES_BYTES: Final = 32 << 20  # of the blocks that all threads work on at the same time
DEALT_FILTER_BYTES: Final = 10 << 20  # the most points of filters that each thread reads for itself
COPIES_BYTES: Final = 8 << 20  # of all threads' copies of the points of the filters' gradient

# What the choice between this and a direct convolution goes by, in multiplications of a direct one in the
# same time:
POINT_COST: Final = 15  # a point of a tile, made and written
FILTER_POINT_COST: Final = 48  # a point of a filter, likewise
HELD_POINT_COST: Final = 12  # the same, when it is there already
START_COST: Final = 16  # what a short side of a product lacks to be as fast as if it were longer by so much
GRADIENT_SHARE: Final = 0.7  # of their best speed that direct gradients of filters reach


@dataclass(frozen=True)
class Dealing:
    """How the tiles go through: so many at a time, alike in number.

    shares: the threads that each take blocks of their own from the image to the result; 1 where the whole
    team goes through every block together.
    """

    block: int
    shares: int


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

    @property
    def filter_bytes(self) -> int:
        """Of the points of a group's filters."""
        return POINTS * FLOAT * self.inputs * self.outputs

    @property
    def tile_bytes(self) -> int:
        """Of a tile's points, in the image and in the result."""
        return POINTS * FLOAT * (self.inputs + self.outputs)

    @property
    def balanced(self) -> int:
        """The tiles that have as many points as the filters."""
        return self.filter_bytes // self.tile_bytes

    def dealing(self, threads: int) -> Dealing:
        """For a convolution."""
        least = min(self.balanced, TEAM_BLOCK_BYTES // self.tile_bytes)
        return self._dealing(threads, least, self.groups, self.filter_bytes <= DEALT_FILTER_BYTES)

    def gradient_dealing(self, threads: int) -> Dealing:
        """For the filters' gradient, group by group. Each block's products are added to the sums over all:
        the more tiles, the less often."""
        return self._dealing(threads, self.balanced, 1, threads * self.filter_bytes <= COPIES_BYTES)

    def _dealing(self, threads: int, least: int, groups: int, few_filters: bool) -> Dealing:
        """least: the tiles that a block should have; few_filters: whether each thread may have or read its
        own points of filters."""
        count = self._blocks(least, BLOCK_BYTES)
        if threads == 1:
            return Dealing(-(-self.tiles // count), 1)
        if few_filters and groups * count >= BLOCKS_OF_SHARE * threads:
            block = -(-self.tiles // (-(-count // threads) * threads))
            if threads * block * self.tile_bytes <= SHARES_BYTES:
                return Dealing(block, threads)
        return Dealing(-(-self.tiles // self._blocks(least, TEAM_BLOCK_BYTES)), 1)

    def _blocks(self, least: int, nbytes: int) -> int:
        """How many there are of at most so many bytes, and a reasonable size."""
        most = max(LEAST_TILES, least, min(MOST_TILES, nbytes // self.tile_bytes))
        return -(-self.tiles // most)

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
