"""Tiles that cannot be the fastest are not tried."""

from __future__ import annotations

import pytest

from netc.backends.cuda.products import gemm
from netc.backends.cuda.products.gemm import Tile
from netc.backends.cuda.tuning.tiles_to_try import without_padding, worth_trying

LARGE, MIDDLE, SMALL = TILES = [Tile("fp32", m, n, 8, 8, 8) for m, n in ((128, 128), (128, 64), (64, 64))]
PROCESSORS = 100


@pytest.mark.parametrize(
    ("rows", "columns", "tried"),
    [
        (1280, 1280, [LARGE, MIDDLE, SMALL]),
        (1280, 64, [MIDDLE, SMALL]),  # half of the largest is padding
        (64, 1280, [SMALL]),
        (1280, 65, [LARGE, MIDDLE, SMALL]),
        (1, 1, [SMALL]),
        (129, 1280, [LARGE, MIDDLE, SMALL]),  # a third more than the smallest
    ],
)
def test_a_tile_of_which_half_is_padding_is_not_tried(rows: int, columns: int, tried: list[Tile]) -> None:
    assert without_padding(TILES, rows, columns) == tried
    assert worth_trying(TILES, rows, columns, 1000, PROCESSORS) == tried


@pytest.mark.parametrize(("others", "tried"), [(25, [SMALL]), (26, [LARGE, MIDDLE, SMALL])])
def test_where_all_small_tiles_have_a_processor_there_are_no_larger_ones(
    others: int, tried: list[Tile]
) -> None:
    assert worth_trying(TILES, 128, 128, others, PROCESSORS) == tried


def test_the_tiles_of_a_table_go_from_large_to_small() -> None:
    """Which is what makes the last the smallest."""
    for math in {tile.math for tile in gemm.TILES}:
        sizes = [tile.m * tile.n for tile in gemm.TILES if tile.math == math]
        assert sizes == sorted(sizes, reverse=True)
