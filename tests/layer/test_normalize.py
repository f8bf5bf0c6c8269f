"""Normalize: unit length, over the image or over the channels of a place."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import check_slopes, make_layer, run

RNG = np.random.default_rng(4)
X = RNG.standard_normal((2, 3, 4, 5))


@pytest.mark.parametrize(("across", "axes"), [("true", (1, 2, 3)), ("false", (1,))])
@pytest.mark.parametrize(("shared", "scale"), [("true", np.array(2.5)), ("false", np.array([1, 20, -3.0]))])
def test_vectors_get_the_length_of_the_scale(
    across: str, axes: tuple[int, ...], shared: str, scale: np.ndarray
) -> None:
    text = f'type: "Normalize" norm_param {{ across_spatial: {across} channel_shared: {shared} }}'
    (y,) = run(text, X, params=[scale], dtype=np.float64)
    unit = X / np.sqrt((X * X).sum(axis=axes, keepdims=True))
    np.testing.assert_allclose(y, unit * scale.reshape(-1, 1, 1), rtol=1e-9)


@pytest.mark.parametrize("across", ["true", "false"])
def test_the_gradient_of_a_shared_scale_is_the_slope(across: str) -> None:
    text = f'type: "Normalize" norm_param {{ across_spatial: {across} }}'
    check_slopes(text, X, params=[np.array(3.0)])


def test_the_scale_starts_as_its_filler_says() -> None:
    layer = make_layer(
        'type: "Normalize" norm_param { channel_shared: false scale_filler { type: "constant" value: 20 } }'
    )
    layer.infer([(1, 7, 2, 2)])
    assert (layer.params[0].shape, layer.params[0].filler.value) == ((7,), 20)
    shared = make_layer('type: "Normalize"')
    shared.infer([(1, 7, 2, 2)])
    assert (shared.params[0].shape, shared.params[0].filler.value) == ((), 1)


def test_zeros_stay_zeros() -> None:
    (y,) = run('type: "Normalize"', np.zeros((1, 2, 3, 3)), params=[1.0])
    assert not y.any()


def test_a_vector_is_refused() -> None:
    with pytest.raises(NetcError, match="channel axis"):
        make_layer('type: "Normalize"').infer([(3,)])


def test_a_negative_eps_is_refused() -> None:
    with pytest.raises(NetcError, match="eps must not be negative"):
        make_layer('type: "Normalize" norm_param { eps: -1 }').infer([(2, 3)])
