"""Power, Exp, Log and AbsVal: slopes, special powers, Caffe's numbers in place, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import check_slopes, gradients, make_layer, run

POSITIVE = np.array([[0.3, 1.0, 2.5], [0.7, 4.0, 1.5]])
X = np.array([[0.3, 1.1, 2.5], [0.7, 4.0, 1.5]])

LAYERS = (
    'type: "Power"',
    'type: "Power" power_param { scale: 3 shift: -1 }',
    'type: "Power" power_param { power: 2 }',
    'type: "Power" power_param { power: 2 scale: -0.5 shift: 0.25 }',
    'type: "Power" power_param { power: 3 scale: 2 }',
    'type: "Power" power_param { power: 0.5 scale: 2 shift: 1 }',
    'type: "Power" power_param { power: -1 }',
    'type: "Power" power_param { power: 0 scale: 2 }',
    'type: "Power" power_param { power: 2 scale: 0 shift: 3 }',
    'type: "Exp"',
    'type: "Exp" exp_param { base: 2 scale: 0.5 shift: 1 }',
    'type: "Exp" exp_param { shift: -1 }',
    'type: "Log"',
    'type: "Log" log_param { base: 10 scale: 3 shift: 0.5 }',
    'type: "AbsVal"',
)


@pytest.mark.parametrize("text", LAYERS)
def test_backward_gives_the_slope(text: str) -> None:
    check_slopes(text, POSITIVE)


def test_power_of_a_constant_is_that_constant() -> None:
    """power 0 gives 1 even of 0; scale 0 gives shift ** power; neither passes a gradient on."""
    for options, value in (("power: 0", 1), ("power: 2 scale: 0 shift: -3", 9), ("scale: 0", 0)):
        text = f'type: "Power" power_param {{ {options} }}'
        np.testing.assert_array_equal(run(text, [[0.0, 5.0]])[0], [[value, value]])
        np.testing.assert_array_equal(gradients(text, [[0.0, 5.0]], top_grads=[[[1, 1]]])[0], [[0, 0]])


def test_a_root_of_a_negative_constant_is_nan() -> None:
    assert np.isnan(run('type: "Power" power_param { power: 0.5 scale: 0 shift: -1 }', [1.0])[0]).all()


@pytest.mark.parametrize(
    ("text", "slope"),
    [
        ('type: "Power" power_param { scale: 3 }', lambda y: 3 + 0 * y),
        ('type: "Power" power_param { power: 2 }', lambda y: 2 * y),
        ('type: "Power" power_param { power: 3 }', lambda y: 3 + 0 * y),
        ('type: "Log"', lambda y: 1 / y),
    ],
)
def test_in_place_gradient_is_the_slope_squared_like_caffe(text: str, slope: Callable[[Any], Any]) -> None:
    """The slope is taken at the top's values, and dy is overwritten before it is used."""
    (y,) = run(text, X)
    (dx,) = gradients(text + ' bottom: "x" top: "x"', X, top_grads=[np.full_like(X, 7)])
    np.testing.assert_allclose(dx, slope(y) ** 2, rtol=1e-5)


def test_exp_in_place_is_exact() -> None:
    dy = np.array([[1.0, -2, 3], [4, 5, 6]])
    beside = gradients('type: "Exp"', POSITIVE, top_grads=[dy])[0]
    np.testing.assert_array_equal(
        gradients('type: "Exp" bottom: "x" top: "x"', POSITIVE, top_grads=[dy])[0], beside
    )


def test_exp_and_log_undo_each_other_to_any_base() -> None:
    for base in ("", "base: 2", "base: 10"):
        (y,) = run(f'type: "Exp" exp_param {{ {base} }}', POSITIVE)
        np.testing.assert_allclose(run(f'type: "Log" log_param {{ {base} }}', y)[0], POSITIVE, rtol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        'type: "Exp" exp_param { base: 0 }',
        'type: "Exp" exp_param { base: -2 }',
        'type: "Log" log_param { base: 1 }',
        'type: "Log" log_param { base: 0 }',
        'type: "Log" log_param { base: -3 }',
    ],
)
def test_a_base_without_logarithm_is_refused(text: str) -> None:
    with pytest.raises(NetcError, match="logarithm") as error:
        make_layer(text).infer([(2,)])
    assert "-1 (e)" in str(error.value)


def test_power_reads_no_more_than_its_power_needs() -> None:
    reads = {}
    for power in (1, 2, 3):
        layer = make_layer(f'type: "Power" power_param {{ power: {power} }}')
        reads[power] = (layer.backward_bottoms, layer.backward_tops)
    assert reads == {1: ((), ()), 2: (None, ()), 3: (None, None)}


def test_absolute_value_has_slope_zero_at_zero() -> None:
    (dx,) = gradients('type: "AbsVal"', [[-2.0, 0.0, 3.0]], top_grads=[[[1, 1, 1]]])
    np.testing.assert_array_equal(dx, [[-1, 0, 1]])
