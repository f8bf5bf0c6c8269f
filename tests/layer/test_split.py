"""Split adds up its tops' gradients, Silence gives none."""

from __future__ import annotations

import numpy as np
import pytest

from tests.layer.one_layer import OneLayer

X = np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize("given", [(0,), (2,), (0, 1), (1, 2), (0, 1, 2), ()])
def test_split_adds_up_the_gradients_that_are_given(given: tuple[int, ...]) -> None:
    layer = OneLayer('type: "Split" top: "a" top: "b" top: "c"', X)
    for top in layer.forward():
        assert np.shares_memory(top, layer.buffers.bottoms[0])
    grads = [np.full_like(X, 10.0**i) if i in given else None for i in range(3)]
    np.testing.assert_array_equal(layer.backward(*grads)[0], np.full_like(X, sum(10.0**i for i in given)))


def test_split_into_one_copies_the_gradient() -> None:
    layer = OneLayer('type: "Split" top: "a"', X)
    layer.forward()
    np.testing.assert_array_equal(layer.backward(X)[0], X)


def test_silence_takes_any_bottoms_and_gives_them_zeros() -> None:
    layer = OneLayer('type: "Silence"', X, X[0])
    assert layer.forward() == []
    first, second = layer.backward(wanted=[True, False])
    np.testing.assert_array_equal(first, np.zeros_like(X))
    assert second is None
