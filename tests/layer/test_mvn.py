"""MVN: mean and deviation of channels and of images, in place, and where eps goes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.layer.one_layer import OneLayer, check_slopes, run

RNG = np.random.default_rng(6)
SHAPE = (2, 3, 4, 5)


def mvn(options: str = "") -> str:
    return f'type: "MVN" mvn_param {{ {options} }}'


@pytest.mark.parametrize(("options", "axes"), [("", (2, 3)), ("across_channels: true", (1, 2, 3))])
def test_mean_0_and_variance_1(options: str, axes: tuple[int, ...]) -> None:
    x = RNG.standard_normal(SHAPE) * 7 + 100
    y = run(mvn(options), x, dtype=np.float64)[0]
    np.testing.assert_allclose(y.mean(axis=axes), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=axes), 1)
    centred = run(mvn(options + " normalize_variance: false"), x, dtype=np.float64)[0]
    np.testing.assert_allclose(centred, x - x.mean(axis=axes, keepdims=True))


def test_eps_is_added_to_the_deviation() -> None:
    y = run(mvn("eps: 1"), [[[-2, 2, -2, 2]]])[0]  # deviation 2
    np.testing.assert_allclose(y, [[[-2 / 3, 2 / 3, -2 / 3, 2 / 3]]], rtol=1e-6)


def test_equal_values_become_zero() -> None:
    assert not run(mvn(), np.full((1, 2, 3), 0.5))[0].any()


@pytest.mark.parametrize("options", ["", "across_channels: true", "normalize_variance: false"])
@pytest.mark.parametrize("shape", [SHAPE, (3, 2, 5), (2, 7)])
def test_gradients_are_slopes(options: str, shape: tuple[int, ...]) -> None:
    if shape == (2, 7) and options == "":
        shape = (2, 1, 7)  # a channel of one cell has no deviation to divide by
    check_slopes(mvn(options), RNG.standard_normal(shape))


@pytest.mark.parametrize("options", ["", "normalize_variance: false"])
def test_in_place_is_the_same(options: str) -> None:
    x, dy = RNG.standard_normal(SHAPE), RNG.standard_normal(SHAPE)
    apart, together = OneLayer(mvn(options), x), OneLayer(mvn(options) + ' bottom: "x" top: "x"', x)
    np.testing.assert_array_equal(apart.forward()[0], together.forward()[0])
    np.testing.assert_array_equal(apart.backward(dy)[0], together.backward(dy)[0])
