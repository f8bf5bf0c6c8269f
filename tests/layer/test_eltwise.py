"""Eltwise: sums, products and maxima; ties; Caffe's numbers in place; errors."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import OneLayer, check_slopes, gradients, make_layer, run

A = np.array([[1.0, -2, 3], [0.5, 4, -1]])
B = np.array([[2.0, 5, -3], [1.5, -4, 6]])
C = np.array([[-1.0, 6, 2], [2.5, 1, 7]])
MAX = 'type: "Eltwise" eltwise_param { operation: MAX }'


@pytest.mark.parametrize(
    "options",
    [
        "",
        "coeff: 0.5 coeff: 1 coeff: -2",
        "coeff: 1 coeff: 1 coeff: 3",
        "operation: PROD",
        "operation: PROD stable_prod_grad: false",
        "operation: MAX",
    ],
)
def test_backward_gives_the_slope(options: str) -> None:
    check_slopes(f'type: "Eltwise" eltwise_param {{ {options} }}', A, B, C)


def test_sum_takes_coefficients() -> None:
    (y,) = run('type: "Eltwise" eltwise_param { coeff: 1 coeff: -2 coeff: 0.5 }', A, B, C)
    np.testing.assert_allclose(y, A - 2 * B + 0.5 * C)


def test_a_maximum_passes_over_coefficients_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    (y,) = run('type: "Eltwise" eltwise_param { operation: MAX coeff: 1 coeff: -2 }', A, B)
    np.testing.assert_array_equal(y, np.maximum(A, B))
    assert "coeff has no effect on a maximum" in caplog.text


def test_bottom_1_wins_a_tie_with_bottom_0_and_the_earlier_every_other_tie() -> None:
    ones = np.ones((1, 2))
    da, db, dc = gradients(MAX, ones, ones, ones, top_grads=[ones])
    np.testing.assert_array_equal(da, 0 * ones)
    np.testing.assert_array_equal(db, ones)
    np.testing.assert_array_equal(dc, 0 * ones)


def test_a_product_with_a_zero_keeps_a_stable_gradient() -> None:
    zero = np.zeros((1, 2))
    text = 'type: "Eltwise" eltwise_param { operation: PROD }'
    da, db = gradients(text, zero, [[3.0, 4.0]], top_grads=[[[1, 1]]])
    np.testing.assert_array_equal(da, [[3, 4]])
    np.testing.assert_array_equal(db, zero)


def test_gradients_nobody_wants_are_not_computed() -> None:
    for operation in ("SUM", "PROD", "MAX"):
        layer = OneLayer(f'type: "Eltwise" eltwise_param {{ operation: {operation} }}', A, B)
        layer.forward()
        first, second = layer.backward(np.ones_like(A), wanted=[False, True])
        assert first is None
        assert np.isfinite(second).all()


def test_in_place_sum_loses_bottom_0_like_caffe(caplog: pytest.LogCaptureFixture) -> None:
    text = 'type: "Eltwise" bottom: "a" bottom: "b" top: "a" eltwise_param { coeff: 0.5 coeff: 2 }'
    with caplog.at_level(logging.WARNING, "netc"):
        (y,) = run(text, A, B)
    np.testing.assert_array_equal(y, 2 * B)
    assert "bottom 0 (a) drops out" in caplog.text
    dy = np.ones_like(A)
    da, db = gradients(text, A, B, top_grads=[dy])
    np.testing.assert_array_equal(da, 0.5 * dy)
    np.testing.assert_array_equal(db, 2 * 0.5 * dy)  # dy has become the first gradient


def test_in_place_product_multiplies() -> None:
    text = 'type: "Eltwise" bottom: "a" bottom: "b" top: "a" eltwise_param { operation: PROD }'
    np.testing.assert_allclose(run(text, A, B)[0], A * B)


@pytest.mark.parametrize("operation", ["SUM", "MAX", "PROD"])
def test_sums_and_maxima_read_no_activations_in_backward(operation: str) -> None:
    layer = make_layer(f'type: "Eltwise" eltwise_param {{ operation: {operation} }}', 2)
    assert (layer.backward_bottoms == ()) == (operation != "PROD")
    assert layer.backward_tops == ()


def test_bottoms_of_different_shapes_are_refused() -> None:
    with pytest.raises(NetcError, match="one shape") as error:
        make_layer('type: "Eltwise" bottom: "a" bottom: "b"').infer([(2, 3), (2, 4)])
    assert (error.value.blob, error.value.found) == ("b", [2, 4])
    assert "[2, 3]" in error.value.expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("coeff: 1", "as many coefficients as bottoms"),
        ("coeff: 1 coeff: 2 coeff: 3", "as many coefficients as bottoms"),
        ("operation: PROD coeff: 1 coeff: 2", "for sums only"),
    ],
)
def test_coefficients_that_do_not_fit_are_refused(options: str, message: str) -> None:
    with pytest.raises(NetcError, match=message):
        make_layer(f'type: "Eltwise" eltwise_param {{ {options} }}', 2).infer([(2,), (2,)])
