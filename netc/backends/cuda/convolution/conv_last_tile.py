"""A block's share of a convolution over channels last, and the choice among several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netc.backends.cuda.convolution.conv_last_images import NUMBERS
from netc.backends.cuda.convolution.shape import pieces

WARP = 32
MOST_WASTE = 1.4  # of a tile's results over those of the tile that wastes least


@dataclass(frozen=True)
class Tile:
    """A block's product of m rows and n columns.

    number: what the images hold, "float" or what is multiplied; warp_m, warp_n: rows and columns of a warp;
    stages: the steps under way at once; wgmma: by conv_last_wgmma.cu, where four warps work as one; feeders:
    its warps that only copy.
    """

    math: str
    number: str
    m: int
    n: int
    warp_m: int
    warp_n: int
    stages: int
    wgmma: bool = False
    feeders: int = 0

    @property
    def threads(self) -> int:
        return ((self.m // self.warp_m) * (self.n // self.warp_n) + self.feeders) * WARP

    @property
    def numbers(self) -> str:
        """What is multiplied, and what the images hold."""
        return f"{NUMBERS[self.math]}, {self.number}"

    @property
    def sizes(self) -> str:
        return f"{self.m}, {self.n}, {self.warp_m}, {self.warp_n}"

    def __str__(self) -> str:
        of = " of floats" if self.number not in (self.math, NUMBERS[self.math]) else ""
        return f"{self.math}{' wgmma' if self.wgmma else ''} {self.m}x{self.n}{of}"

    def blocks(self, rows: int, columns: int) -> int:
        return pieces(rows, self.m) * pieces(columns, self.n)


def choose_tile(tiles: Sequence[Tile], rows: int, columns: int, others: int, processors: int) -> Tile:
    """The first, hence largest, tile of which there are enough to occupy the device, and that is not mostly
    padding; else the last."""

    def area(tile: Tile) -> int:
        return tile.blocks(rows, columns) * tile.m * tile.n

    least = min(map(area, tiles))
    for tile in tiles:
        if tile.blocks(rows, columns) * others >= processors and area(tile) <= MOST_WASTE * least:
            return tile
    return tiles[-1]
