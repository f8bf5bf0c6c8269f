"""BN: PSPNet's and SegNet's, told apart by what is given."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from tests.layer.one_layer import OneLayer, check_slopes, make_layer, run

RNG = np.random.default_rng(13)
X = RNG.standard_normal((3, 2, 4, 5)) * 3 + 1
SCALE, SHIFT = np.array([2.0, -1.0]).reshape(1, 2, 1, 1), np.array([0.5, 4.0]).reshape(1, 2, 1, 1)
MEAN, VARIANCE = np.array([1.0, -2.0]).reshape(1, 2, 1, 1), np.array([4.0, 9.0]).reshape(1, 2, 1, 1)
AXES = (0, 2, 3)


def text(options: str = "") -> str:
    return f'type: "BN" bn_param {{ {options} }}'


def test_pspnets_running_statistics_weigh_the_old_by_momentum() -> None:
    params = [SCALE, SHIFT, MEAN, VARIANCE]
    layer = OneLayer(text("momentum: 0.75 eps: 0"), X, params=params, dtype=np.float64)
    (y,) = layer.forward()
    mean, variance = X.mean(axis=AXES, keepdims=True), X.var(axis=AXES, keepdims=True)
    np.testing.assert_allclose(y, SCALE * (X - mean) / np.sqrt(variance) + SHIFT)
    np.testing.assert_allclose(layer.buffers.params[2], 0.75 * MEAN + 0.25 * mean)
    np.testing.assert_allclose(layer.buffers.params[3], 0.75 * VARIANCE + 0.25 * variance)


@pytest.mark.parametrize(
    ("options", "phase"), [("", pb.TEST), ("frozen: true", pb.TRAIN), ("frozen: true", pb.TEST)]
)
def test_running_statistics_are_used_while_testing_and_when_frozen(options: str, phase: int) -> None:
    layer = OneLayer(
        text(options + " eps: 0"), X, phase=phase, params=[SCALE, SHIFT, MEAN, VARIANCE], dtype=np.float64
    )
    np.testing.assert_allclose(layer.forward()[0], SCALE * (X - MEAN) / np.sqrt(VARIANCE) + SHIFT)
    np.testing.assert_array_equal(layer.buffers.params[2], MEAN)


def test_frozen_nothing_learns() -> None:
    layer = OneLayer(text("frozen: true"), X, params=[SCALE, SHIFT, MEAN, VARIANCE], dtype=np.float64)
    layer.forward()
    (dx,) = layer.backward(np.ones_like(X))
    np.testing.assert_allclose(dx, np.broadcast_to(SCALE / np.sqrt(VARIANCE + 1e-5), X.shape), rtol=1e-9)
    assert not any(grad.any() for grad in layer.param_grads)
    assert [param.lr_mult for param in layer.layer.params] == [0, 0, 0, 0]


def test_running_statistics_do_not_learn_and_frozen_ones_start_as_one() -> None:
    layer = make_layer(text())
    layer.infer([(2, 3, 4, 4)])
    assert [param.shape for param in layer.params] == [(1, 3, 1, 1)] * 4
    assert [param.lr_mult for param in layer.params] == [None, None, 0, 0]
    frozen = make_layer(text("frozen: true"))
    frozen.infer([(2, 3, 4, 4)])
    assert (frozen.params[2].filler, frozen.params[3].filler.value) == (None, 1)


@pytest.mark.parametrize("options", ["bn_mode: LEARN", "scale_filler { value: 1 }", "shift_filler { }"])
def test_segnets_is_known_by_its_fields(options: str) -> None:
    layer = make_layer(text(options))
    layer.infer([(2, 3, 4, 4)])
    assert [param.shape for param in layer.params] == [(1, 3, 1, 1)] * 2


@pytest.mark.parametrize("phase", [pb.TRAIN, pb.TEST])
def test_segnets_takes_the_batchs_statistics_and_shows_them(phase: int) -> None:
    spec = f'{text("bn_mode: LEARN")} top: "y" top: "mean" top: "variance"'
    y, mean, variance = run(spec, X, phase=phase, params=[SCALE, SHIFT], dtype=np.float64)
    np.testing.assert_allclose(mean, X.mean(axis=AXES, keepdims=True))
    np.testing.assert_allclose(variance, X.var(axis=AXES, keepdims=True))
    np.testing.assert_allclose(y, SCALE * (X - mean) / np.sqrt(variance) + SHIFT, rtol=1e-6)


def test_segnets_inference_is_a_scale_and_a_shift() -> None:
    (y,) = run(text("bn_mode: INFERENCE"), X, params=[SCALE, SHIFT], dtype=np.float64)
    np.testing.assert_allclose(y, SCALE * X + SHIFT)
    check_slopes(text("bn_mode: INFERENCE"), X, params=[SCALE, SHIFT])


def test_segnets_gradients_are_slopes() -> None:
    check_slopes(text("bn_mode: LEARN"), X[:2, :, :2, :2], params=[SCALE, SHIFT])


@pytest.mark.parametrize("shape", [(3,), (1, 2, 3, 4, 5)])
def test_shapes_without_channels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(NetcError, match="channel axis"):
        make_layer(text()).infer([shape])


def test_a_negative_eps_is_refused() -> None:
    with pytest.raises(NetcError, match="eps must not be negative"):
        make_layer(text("eps: -1")).infer([(2, 3)])
