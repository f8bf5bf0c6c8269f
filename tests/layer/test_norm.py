"""LRN and BatchNorm: the defining formulas, running statistics as in Caffe, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from tests.layer.one_layer import OneLayer, check_slopes, make_layer, run

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(4)


def lrn(options: str) -> str:
    return f'type: "LRN" lrn_param {{ {options} }}'


def norm(options: str = "") -> str:
    return f'type: "BatchNorm" batch_norm_param {{ {options} }}'


def test_lrn_across_channels_by_hand() -> None:
    y = run(lrn("local_size: 3 alpha: 3 beta: 1 k: 2"), [[[[1]], [[2]], [[3]]]])[0]
    np.testing.assert_allclose(y.ravel(), [1 / (2 + 5), 2 / (2 + 14), 3 / (2 + 13)], rtol=1e-6)


def test_lrn_within_channel_by_hand_ignores_k() -> None:
    y = run(lrn("local_size: 3 alpha: 9 beta: 1 k: 50 norm_region: WITHIN_CHANNEL"), [[[[1, 2, 3]]]])[0]
    np.testing.assert_allclose(y.ravel(), [1 / (1 + 5), 2 / (1 + 14), 3 / (1 + 13)], rtol=1e-6)


@pytest.mark.parametrize("beta", [0.75, 1.3])
def test_lrn_is_the_same_for_the_usual_beta_and_others(beta: float) -> None:
    x = RNG.standard_normal((2, 6, 3, 4))
    y = run(lrn(f"local_size: 5 alpha: 0.7 beta: {beta} k: 1.5"), x, dtype=np.float64)[0]
    square = np.pad(x * x, ((0, 0), (2, 2), (0, 0), (0, 0)))
    scale = np.float32(1.5) + np.float64(np.float32(0.7)) / 5 * sum(square[:, i : i + 6] for i in range(5))
    np.testing.assert_allclose(y, x * scale ** -float(np.float32(beta)), rtol=1e-12)


@pytest.mark.parametrize(
    "options",
    ["", "alpha: 2 beta: 1.3 k: 2", "local_size: 1 alpha: 2", "local_size: 9 alpha: 2 beta: 0.4"],
)
@pytest.mark.parametrize("region", ["ACROSS_CHANNELS", "WITHIN_CHANNEL"])
def test_lrn_slopes(options: str, region: str) -> None:
    check_slopes(lrn(f"{options} norm_region: {region}"), RNG.standard_normal((2, 4, 3, 4)))


@pytest.mark.parametrize(
    ("options", "shape", "said"),
    [("local_size: 4", (1, 2, 3, 3), "needs a middle"), ("", (1, 2, 3), r"needs \(N, C, H, W\)")],
)
def test_lrn_refuses(options: str, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(NetcError, match=said):
        make_layer(lrn(options)).infer([shape])


def zeros(channels: int) -> list[Array]:
    return [np.zeros(channels), np.zeros(channels), np.zeros(1)]


def test_batch_norm_takes_its_statistics_in() -> None:
    x = [[1, 10], [2, 20], [6, 60]]  # means 3 and 30, variances 14 / 3 and 1400 / 3
    layer = OneLayer(
        norm("moving_average_fraction: 0.5 eps: 0"), x, params=[[8, 8], [2, 2], [1]], dtype=np.float64
    )
    (y,) = layer.forward()
    np.testing.assert_allclose(y.mean(axis=0), [0, 0], atol=1e-12)
    np.testing.assert_allclose(y.std(axis=0), [1, 1])
    mean, variance, weight = layer.buffers.params
    np.testing.assert_allclose(mean, [4 + 3, 4 + 30])
    np.testing.assert_allclose(variance, [1 + 7, 1 + 700])  # the unbiased ones: m / (m - 1) times the batch's
    np.testing.assert_allclose(weight, [1.5])


def test_batch_norm_uses_the_running_statistics_in_test() -> None:
    params = [[6, 60], [8, 800], [2]]
    layer = OneLayer(norm("eps: 0"), [[1, 10], [5, 50]], params=params, phase=pb.TEST)
    np.testing.assert_allclose(layer.forward()[0], [[-1, -1], [1, 1]], rtol=1e-6)
    np.testing.assert_array_equal(layer.buffers.params[0], params[0])
    np.testing.assert_allclose(layer.backward([[2, 20], [4, 40]])[0], [[1, 1], [2, 2]], rtol=1e-6)


def test_batch_norm_without_statistics_divides_by_the_root_of_eps() -> None:
    y = run(norm("eps: 0.25"), [[3.0, 4.0]], params=zeros(2), phase=pb.TEST)[0]
    np.testing.assert_allclose(y, [[6, 8]])


@pytest.mark.parametrize(
    ("options", "phase", "from_batch"),
    [
        ("", pb.TRAIN, True),
        ("", pb.TEST, False),
        ("use_global_stats: true", pb.TRAIN, False),
        ("use_global_stats: false", pb.TEST, True),
    ],
)
def test_use_global_stats_overrules_the_phase(options: str, phase: int, from_batch: bool) -> None:
    layer = OneLayer(norm(options), RNG.standard_normal((4, 3)), params=zeros(3), phase=phase)
    layer.forward()
    assert bool(layer.buffers.params[2][0]) == from_batch


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4), (3, 2, 2, 3), (2, 2, 2, 2, 2)])
@pytest.mark.parametrize("options", ["", "eps: 0.1", "use_global_stats: true"])
def test_batch_norm_slopes(shape: tuple[int, ...], options: str) -> None:
    params = [RNG.uniform(1, 2, shape[1]), RNG.uniform(1, 2, shape[1]), [2.5]]
    layer = OneLayer(norm(options), RNG.standard_normal(shape), params=params, dtype=np.float64)
    layer.buffers.param_grads = [None, None, None]
    weights = RNG.standard_normal(layer.forward()[0].shape)
    x, step = layer.buffers.bottoms[0].copy(), 1e-6
    (dx,) = layer.backward(weights)
    for place in np.ndindex(shape):
        total = []
        for sign in (1, -1):
            moved = x.copy()
            moved[place] += sign * step
            total.append((weights * run(norm(options), moved, params=params, dtype=np.float64)[0]).sum())
        assert dx[place] == pytest.approx((total[0] - total[1]) / (2 * step), abs=1e-6)  # type: ignore[index]


@pytest.mark.parametrize("options", ["", "use_global_stats: true"])
def test_batch_norm_in_place_is_the_same(options: str) -> None:
    x, dy = RNG.standard_normal((2, 3, 4)), RNG.standard_normal((2, 3, 4))
    params = [RNG.uniform(1, 2, 3), RNG.uniform(1, 2, 3), [2]]
    apart = OneLayer(norm(options), x, params=params, dtype=np.float64)
    inside = OneLayer(norm(options) + ' bottom: "x" top: "x"', x, params=params, dtype=np.float64)
    np.testing.assert_array_equal(apart.forward(), inside.forward())
    inside.buffers.tops[0] *= 3  # a layer behind it that also writes in place
    np.testing.assert_allclose(apart.backward(dy)[0], inside.backward(dy)[0], atol=1e-12)


def test_batch_norm_parameters_never_learn() -> None:
    layer = make_layer(norm())
    layer.infer([(2, 3, 4, 4)])
    assert [(param.shape, param.lr_mult) for param in layer.params] == [((3,), 0), ((3,), 0), ((1,), 0)]


def test_batch_norm_of_one_axis_has_one_channel() -> None:
    y = run(norm("eps: 0"), [1.0, 3.0], params=zeros(1))[0]
    np.testing.assert_allclose(y, [-1, 1])


def test_batch_norm_refuses_a_single_number() -> None:
    with pytest.raises(NetcError, match="needs an axis"):
        make_layer(norm()).infer([()])


@pytest.mark.parametrize(
    ("options", "params"),
    [
        ("", 3),
        ("scale_bias: true", 5),
        ("use_weight_bias: true", 5),
        ("use_weight_bias: true bias_term: false", 4),
        ("use_weight_bias: false", 3),
        ("scale_bias: false bias_filler { value: 1 }", 3),
        ("scale_filler { value: 2 } bias_filler { value: 1 }", 5),
        ("filler { value: 2 }", 5),
    ],
)
def test_forks_give_batch_norm_a_factor_and_a_bias(options: str, params: int) -> None:
    layer = make_layer(f'type: "BatchNorm" batch_norm_param {{ {options} }}')
    layer.infer([(2, 3, 4, 5)])
    assert [param.shape for param in layer.params] == [(3,), (3,), (1,), (3,), (3,)][:params]
    assert [param.lr_mult for param in layer.params] == [0, 0, 0, None, None][:params]
    if params > 3:
        assert layer.params[3].filler.value == (2 if "filler { value: 2" in options else 1)


@pytest.mark.parametrize("phase", [pb.TRAIN, pb.TEST])
@pytest.mark.parametrize("in_place", [False, True])
def test_batch_norm_with_factor_and_bias_is_a_batch_norm_and_a_scale(phase: int, in_place: bool) -> None:
    rng = np.random.default_rng(9)
    x, dy = rng.standard_normal((3, 2, 4, 5)), rng.standard_normal((3, 2, 4, 5))
    statistics = [rng.standard_normal(2), rng.uniform(1, 2, 2), np.array([1.5])]
    learned = [rng.standard_normal(2), rng.standard_normal(2)]
    top = 'bottom: "x0" top: "x0"' if in_place else ""
    whole = OneLayer(
        f'type: "BatchNorm" {top} batch_norm_param {{ scale_bias: true }}',
        x,
        phase=phase,
        params=[*statistics, *learned],
        dtype=np.float64,
    )
    norm = OneLayer('type: "BatchNorm"', x, phase=phase, params=statistics, dtype=np.float64)
    (normalised,) = norm.forward()
    scale = OneLayer(
        'type: "Scale" scale_param { bias_term: true }', normalised, params=learned, dtype=np.float64
    )
    np.testing.assert_allclose(whole.forward()[0], scale.forward()[0])
    (dscaled,) = scale.backward(dy)
    np.testing.assert_allclose(whole.backward(dy)[0], norm.backward(dscaled)[0], atol=1e-12)
    for found, expected in zip(whole.param_grads[3:], scale.param_grads, strict=True):
        np.testing.assert_allclose(found, expected)
    for found, expected in zip(whole.buffers.params[:3], norm.buffers.params, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_negative_eps_is_refused() -> None:
    with pytest.raises(NetcError, match="eps must not be negative"):
        make_layer('type: "BatchNorm" batch_norm_param { eps: -1 }').infer([(2, 3)])
