"""Softmax: sums to one along its axis, survives large scores, in place as well."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import OneLayer, check_slopes, make_layer, run

X = np.random.default_rng(0).standard_normal((2, 3, 4))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_softmax_sums_to_one_along_its_axis(axis: int) -> None:
    text = f'type: "Softmax" softmax_param {{ axis: {axis} }}'
    (y,) = run(text, X)
    np.testing.assert_allclose(y.sum(axis=axis), 1, rtol=1e-6)
    np.testing.assert_allclose(y, np.exp(X) / np.exp(X).sum(axis=axis, keepdims=True), rtol=1e-5)
    check_slopes(text, X)


def test_softmax_of_large_scores_is_finite() -> None:
    with np.errstate(over="raise", invalid="raise"):
        (y,) = run('type: "Softmax"', [[1e4, 1e4, -1e4]])
    np.testing.assert_allclose(y, [[0.5, 0.5, 0]])


def test_softmax_in_place_gives_the_same() -> None:
    beside, there = OneLayer('type: "Softmax"', X), OneLayer('type: "Softmax" bottom: "x" top: "x"', X)
    np.testing.assert_array_equal(there.forward()[0], beside.forward()[0])
    dy = np.random.default_rng(1).standard_normal(X.shape)
    np.testing.assert_array_equal(there.backward(dy)[0], beside.backward(dy)[0])


def test_an_axis_that_does_not_exist_is_refused() -> None:
    with pytest.raises(NetcError, match="axis 3 does not exist"):
        make_layer('type: "Softmax" softmax_param { axis: 3 }').infer([(2, 3, 4)])
