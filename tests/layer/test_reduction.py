"""Reduction: each operation by hand, over every axis."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import check_slopes, gradients, make_layer, run

RNG = np.random.default_rng(5)
X = [[1, -2, 0], [3, 4, -5]]


def reduction(options: str) -> str:
    return f'type: "Reduction" reduction_param {{ {options} }}'


@pytest.mark.parametrize(
    ("operation", "sums", "slopes"),
    [
        ("SUM", [-1, 2], [[1, 1, 1], [1, 1, 1]]),
        ("ASUM", [3, 12], [[1, -1, 0], [1, 1, -1]]),
        ("SUMSQ", [5, 50], [[2, -4, 0], [6, 8, -10]]),
        ("MEAN", [-1 / 3, 2 / 3], [[1 / 3] * 3] * 2),
    ],
)
def test_operations_by_hand(operation: str, sums: list[float], slopes: list[list[float]]) -> None:
    text = reduction(f"operation: {operation} axis: 1 coeff: -2")
    np.testing.assert_allclose(run(text, X)[0], -2 * np.array(sums), rtol=1e-6)
    dx = gradients(text, X, top_grads=[[1, 10]])[0]
    np.testing.assert_allclose(dx, -2 * np.array(slopes) * [[1], [10]], rtol=1e-6)


def test_without_an_axis_everything_becomes_one_number() -> None:
    assert make_layer(reduction("")).infer([(2, 3, 5)]) == [()]
    assert float(run(reduction(""), X)[0]) == 1


@pytest.mark.parametrize("operation", ["SUM", "ASUM", "SUMSQ", "MEAN"])
@pytest.mark.parametrize("axis", [0, 1, 3, -1, -4])
def test_gradients_are_slopes_along_every_axis(operation: str, axis: int) -> None:
    text = reduction(f"operation: {operation} axis: {axis} coeff: 1.5")
    check_slopes(text, RNG.uniform(0.1, 1, (2, 3, 1, 2)) * RNG.choice([-1, 1], (2, 3, 1, 2)))


@pytest.mark.parametrize("operation", ["SUM", "ASUM", "SUMSQ", "MEAN"])
def test_nothing_sums_up_to_zero(operation: str) -> None:
    assert run(reduction(f"operation: {operation} axis: 1"), np.zeros((2, 0)))[0].tolist() == [0, 0]


def test_refuses_an_axis_that_does_not_exist() -> None:
    with pytest.raises(NetcError, match="axis 2 does not exist"):
        make_layer(reduction("axis: 2")).infer([(2, 3)])
