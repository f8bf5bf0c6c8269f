"""Which tiles of a matrix product are worth a tuner's time: those that cannot win are not even compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

MOST_WASTE = 2  # of a tile's results, those beyond the edges too, over those of the tile with the fewest


class Sized(Protocol):
    """A tile of m rows and n columns."""

    @property
    def m(self) -> int: ...

    @property
    def n(self) -> int: ...


AnyTile = TypeVar("AnyTile", bound=Sized)


def without_padding(tiles: Sequence[AnyTile], rows: int, columns: int) -> list[AnyTile]:
    """The tiles that compute less than twice as much as is needed, beside the one that computes least."""
    least = min(_results(tile, rows, columns) for tile in tiles)
    return [tile for tile in tiles if _results(tile, rows, columns) < MOST_WASTE * least]


def worth_trying(
    tiles: Sequence[AnyTile], rows: int, columns: int, others: int, processors: int
) -> list[AnyTile]:
    """The tiles, from large to small, that may be fastest for `others` products of so many rows and columns.

    Where every block of the smallest has a processor to itself, larger ones leave more of them idle; of the
    rest those without much padding.
    """
    smallest = tiles[-1]
    if _blocks(smallest, rows, columns) * others <= processors:
        return [smallest]
    return without_padding(tiles, rows, columns)


def _blocks(tile: Sized, rows: int, columns: int) -> int:
    return -(-rows // tile.m) * -(-columns // tile.n)


def _results(tile: Sized, rows: int, columns: int) -> int:
    return _blocks(tile, rows, columns) * tile.m * tile.n
