"""Activations: values worked by hand, slopes by finite differences, in place and out of it, errors."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layer import layer_class
from netc.proto import netc_pb2 as pb
from tests.layer.one_layer import OneLayer, check_slopes, gradients, make_layer, run

X = np.array([[-2.0, -0.5, 0.3], [0.0, 0.7, 3.0]])
OFF_ZERO = np.array([[-2.0, -0.5, 0.3], [-0.1, 0.7, 3.0]])

SMOOTH = (
    'type: "ReLU"',
    'type: "ReLU" relu_param { negative_slope: 0.1 }',
    'type: "ReLU" relu_param { negative_slope: -0.5 }',
    'type: "ELU"',
    'type: "ELU" elu_param { alpha: 0.3 }',
    'type: "ELU" elu_param { alpha: -2 }',
    'type: "Sigmoid"',
    'type: "TanH"',
    'type: "BNLL"',
    'type: "Swish"',
    'type: "Swish" swish_param { beta: 2 }',
    'type: "Clip" clip_param { min: -1 max: 1 }',
)
IN_PLACE = (
    *SMOOTH[:2],
    'type: "ELU"',
    'type: "Sigmoid"',
    'type: "TanH"',
)  # those whose slope can be told from the top alone


@pytest.mark.parametrize("text", SMOOTH)
def test_backward_gives_the_slope(text: str) -> None:
    check_slopes(text, OFF_ZERO)


@pytest.mark.parametrize("text", IN_PLACE)
def test_in_place_gives_the_same_as_out_of_place(text: str) -> None:
    dy = np.array([[0.3, -1.0, 2.0], [0.5, 0.25, -4.0]])
    beside = OneLayer(text, X)
    there = OneLayer(text + ' bottom: "x" top: "x"', X)
    np.testing.assert_array_equal(there.forward()[0], beside.forward()[0])
    np.testing.assert_array_equal(there.backward(dy)[0], beside.backward(dy)[0])


def test_relu_passes_no_gradient_at_zero() -> None:
    (dx,) = gradients('type: "ReLU"', X, top_grads=[np.ones_like(X)])
    np.testing.assert_array_equal(dx, [[0, 0, 1], [0, 1, 1]])


def test_leaky_relu_has_its_slope_at_zero() -> None:
    text = 'type: "ReLU" relu_param { negative_slope: 0.5 }'
    np.testing.assert_array_equal(run(text, X)[0], np.float32([[-1, -0.25, 0.3], [0, 0.7, 3]]))
    (dx,) = gradients(text, X, top_grads=[np.ones_like(X)])
    np.testing.assert_array_equal(dx, [[0.5, 0.5, 1], [0.5, 1, 1]])


def test_sigmoid_and_bnll_do_not_overflow() -> None:
    extreme = np.array([[-1e4, -100.0, 100.0, 1e4]])
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_allclose(run('type: "Sigmoid"', extreme)[0], [[0, 0, 1, 1]], atol=1e-7)
        np.testing.assert_allclose(run('type: "BNLL"', extreme)[0], [[0, 0, 100, 1e4]], atol=1e-7)
        (dx,) = gradients('type: "BNLL"', extreme, top_grads=[np.ones_like(extreme)])
    np.testing.assert_allclose(dx, [[0, 0, 1, 1]], atol=1e-7)


def test_prelu_learns_a_slope_for_each_channel() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 2, 2))
    slopes = [0.1, -0.5, 2.0]
    (y,) = run('type: "PReLU"', x, params=[slopes])
    expected = np.where(x > 0, x, np.reshape(slopes, (3, 1, 1)) * x)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    check_slopes('type: "PReLU"', x, params=[slopes])


def test_prelu_shares_one_slope_between_channels() -> None:
    text = 'type: "PReLU" prelu_param { channel_shared: true }'
    check_slopes(text, OFF_ZERO, params=[0.25])
    layer = OneLayer(text, OFF_ZERO, params=[0.25])
    layer.forward()
    layer.backward(np.ones_like(OFF_ZERO))
    assert layer.param_grads[0] == pytest.approx(-2.6)  # the negative elements' sum


def test_prelu_in_place_remembers_its_bottom() -> None:
    text = 'type: "PReLU" bottom: "x" top: "x"'
    beside, there = OneLayer('type: "PReLU"', X, params=[[-1, 2, 3]]), OneLayer(text, X, params=[[-1, 2, 3]])
    np.testing.assert_array_equal(there.forward()[0], beside.forward()[0])
    dy = np.array([[1.0, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(there.backward(dy)[0], beside.backward(dy)[0])
    np.testing.assert_array_equal(there.param_grads[0], beside.param_grads[0])


def test_prelu_adds_to_its_parameter_gradient_and_leaves_an_unwanted_bottom_alone() -> None:
    layer = OneLayer('type: "PReLU"', X, params=[[0, 0, 0]])
    layer.forward()
    assert layer.backward(np.ones_like(X), wanted=[False]) == [None]
    once = layer.param_grads[0].copy()
    np.testing.assert_array_equal(once, [-2, -0.5, 0])
    layer = OneLayer('type: "PReLU"', X, params=[[0, 0, 0]])
    layer.forward()
    layer.buffers.param_grads = [np.float32([10, 10, 10])]
    layer.backward(np.ones_like(X))
    np.testing.assert_array_equal(layer.param_grads[0], once + 10)


def test_prelu_starts_at_a_quarter() -> None:
    layer = make_layer('type: "PReLU"')
    layer.infer([(2, 5)])
    (param,) = layer.params
    assert param.shape == (5,)
    assert param.filler is not None
    assert (param.filler.type, param.filler.value) == ("constant", 0.25)


def test_prelu_refuses_a_bottom_without_channels() -> None:
    with pytest.raises(NetcError, match="channel axis") as error:
        make_layer('type: "PReLU"').infer([(4,)])
    assert error.value.layer == "layer (PReLU)"


def test_clip_in_place_loses_its_mask_like_caffe() -> None:
    text = 'type: "Clip" clip_param { min: -0.4 max: 0.5 }'
    ones = np.ones_like(X)
    np.testing.assert_array_equal(run(text, X)[0], np.float32([[-0.4, -0.4, 0.3], [0, 0.5, 0.5]]))
    np.testing.assert_array_equal(gradients(text, X, top_grads=[ones])[0], [[0, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(gradients(text + ' bottom: "x" top: "x"', X, top_grads=[ones])[0], ones)


def test_clip_needs_both_bounds() -> None:
    spec = pb.LayerParameter(name="c", type="Clip", bottom=["x"], top=["y"])
    spec.clip_param.min = 0
    with pytest.raises(NetcError, match="has no max"):
        layer_class("Clip")(spec).infer([(2,)])


def test_threshold_is_strict_and_has_no_gradient() -> None:
    text = 'type: "Threshold" threshold_param { threshold: 0.5 }'
    np.testing.assert_array_equal(run(text, [[0.5, 0.6, -1]])[0], [[0, 1, 0]])
    assert not make_layer(text).gives_gradient(0)


def test_relu6_bends_at_zero_and_at_six() -> None:
    x = np.array([-2.0, 0, 3, 6, 7])
    text = 'type: "ReLU6" relu6_param { negative_slope: 0.5 }'
    assert run(text, x)[0].tolist() == [-1, 0, 3, 6, 6]
    assert gradients(text, x, top_grads=[np.ones(5)])[0].tolist() == [0.5, 0.5, 1, 0, 0]


@pytest.mark.parametrize("kind", ["SeLU", "SeLu"])
def test_selu_keeps_mean_and_variance(kind: str) -> None:
    x = np.random.default_rng(3).standard_normal(200_000)
    (y,) = run(f'type: "{kind}"', x)
    assert abs(y.mean()) < 0.01
    assert abs(y.var() - 1) < 0.01
    y, z = run(f'type: "{kind}" selu_param {{ alpha: 2 lambda: 3 }}', [1.0, -np.log(2)])[0]
    assert (y, z) == (3, pytest.approx(-3))
