"""Tile: copies along an axis, their gradients added up, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import check_slopes, gradients, make_layer, run

RNG = np.random.default_rng(4)


def tile(options: str) -> str:
    return f'type: "Tile" tile_param {{ {options} }}'


def test_copies_by_hand() -> None:
    assert run(tile("tiles: 2"), [[1, 2], [3, 4]])[0].tolist() == [[1, 2, 1, 2], [3, 4, 3, 4]]
    dx = gradients(tile("tiles: 2"), [[0, 0], [0, 0]], top_grads=[[[1, 2, 10, 20], [3, 4, 30, 40]]])[0]
    assert dx.tolist() == [[11, 22], [33, 44]]


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("tiles", [1, 3])
def test_is_numpys_tile(axis: int, tiles: int) -> None:
    x = RNG.standard_normal((2, 3, 5))
    times = [1, 1, 1]
    times[axis] = tiles
    y = run(tile(f"axis: {axis} tiles: {tiles}"), x, dtype=np.float64)[0]
    np.testing.assert_array_equal(y, np.tile(x, times))
    check_slopes(tile(f"axis: {axis} tiles: {tiles}"), x)


@pytest.mark.parametrize("options", ["", "tiles: 0", "tiles: -2"])
def test_refuses_no_copies(options: str) -> None:
    with pytest.raises(NetcError, match="number of copies"):
        make_layer(tile(options)).infer([(2, 3)])
