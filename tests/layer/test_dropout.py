"""Dropout: what is left out and how often, the same mask backward, and draws that repeat."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from tests.layer.one_layer import OneLayer, make_layer


def dropout(options: str = "") -> str:
    return f'type: "Dropout" dropout_param {{ {options} }}'


def test_dropout_in_training_is_distributed_as_caffes(golden: Path) -> None:
    caffe = json.loads((golden / "misc" / "dropout_train_stats.json").read_text())
    layer = OneLayer(dropout("dropout_ratio: 0.3"), np.ones((100, 1000)))
    (y,) = layer.forward()
    np.testing.assert_allclose(np.unique(y), caffe["values"], rtol=1e-6)
    assert float((y != 0).mean()) == pytest.approx(caffe["kept"], abs=0.01)
    kept = y != 0
    (dx,) = layer.backward(np.full((100, 1000), 2))
    np.testing.assert_allclose(np.unique(dx), caffe["grad_values"], rtol=1e-6)
    np.testing.assert_array_equal(dx != 0, kept)


def test_nothing_is_left_out_in_test() -> None:
    x = np.arange(6).reshape(2, 3)
    layer = OneLayer(dropout(), x, phase=pb.TEST)
    np.testing.assert_array_equal(layer.forward()[0], x)
    np.testing.assert_array_equal(layer.backward(x)[0], x)
    assert not layer.buffers.saved
    assert not layer.buffers.states


def test_ratio_0_leaves_nothing_out() -> None:
    np.testing.assert_array_equal(
        OneLayer(dropout("dropout_ratio: 0"), np.ones(1000)).forward()[0], np.ones(1000)
    )


def test_every_forward_draws_anew_and_a_resumed_one_draws_the_same() -> None:
    layer = OneLayer(dropout(), np.ones(1000))
    draws = [layer.forward()[0].copy() for _ in range(3)]
    assert not np.array_equal(draws[0], draws[1])
    assert layer.buffers.states["draw"][0] == 3
    resumed = OneLayer(dropout(), np.ones(1000))
    resumed.buffers.states["draw"][0] = 2
    np.testing.assert_array_equal(resumed.forward()[0], draws[2])


def test_layers_of_other_names_and_seeds_draw_otherwise() -> None:
    masks = []
    seeds = 1, 2, -1, -2, 2**62, 2**62 + 1
    for name, seed in (("b", 1), *(("a", seed) for seed in seeds)):
        layer = OneLayer(dropout() + f' name: "{name}"', np.ones(1000))
        layer.layer.seed = seed
        masks.append(layer.forward()[0].tobytes())
    assert len(set(masks)) == 7


@pytest.mark.parametrize("phase", [pb.TRAIN, pb.TEST])
def test_in_place_is_the_same(phase: int) -> None:
    x, dy = np.arange(1.0, 101), np.arange(100.0)
    apart = OneLayer(dropout(), x, phase=phase)
    inside = OneLayer(dropout() + ' bottom: "x" top: "x"', x, phase=phase)
    np.testing.assert_array_equal(apart.forward(), inside.forward())
    np.testing.assert_array_equal(apart.backward(dy), inside.backward(dy))


def test_an_unwanted_gradient_is_not_computed() -> None:
    layer = OneLayer(dropout(), np.ones(4))
    layer.forward()
    assert layer.backward(np.ones(4), wanted=[False]) == [None]


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.5])
def test_refuses_a_ratio_that_is_no_part(ratio: float) -> None:
    with pytest.raises(NetcError, match="the part that is left out"):
        make_layer(dropout(f"dropout_ratio: {ratio}")).infer([(2, 3)])


@pytest.mark.parametrize(
    ("options", "phase", "kept"),
    [
        ("scale_train: false", pb.TRAIN, {0, 1}),
        ("scale_train: false", pb.TEST, {0.75}),
        ("sample_weights_test: true", pb.TEST, {0, np.float32(1 / 0.75)}),
        ("sample_weights_test: true scale_train: false", pb.TEST, {0, 1}),
    ],
)
def test_forks_scale_while_testing_or_drop_while_testing(options: str, phase: int, kept: set[float]) -> None:
    layer = OneLayer(
        f'type: "Dropout" dropout_param {{ dropout_ratio: 0.25 {options} }}', np.ones(500), phase=phase
    )
    (y,) = layer.forward()
    assert set(y.tolist()) == kept
    np.testing.assert_array_equal(layer.backward(np.ones(500))[0], y)


@pytest.mark.parametrize("kind", ["SeLUDropout", "SeLuDropout"])
def test_selu_dropout_keeps_mean_and_variance(kind: str) -> None:
    x = np.random.default_rng(2).standard_normal(200_000)
    layer = OneLayer(f'type: "{kind}" selu_dropout_param {{ dropout_ratio: 0.2 }}', x, dtype=np.float64)
    (y,) = layer.forward()
    assert abs(y.mean()) < 0.02
    assert abs(y.var() - 1) < 0.02
    slopes = layer.backward(np.ones_like(x))[0]
    dropped = slopes == 0
    assert abs(dropped.mean() - 0.2) < 0.01
    assert len(set(y[dropped].tolist())) == 1
    factor = slopes[~dropped][0]
    np.testing.assert_allclose(y[~dropped] - factor * x[~dropped], y[~dropped][0] - factor * x[~dropped][0])


def test_selu_dropout_passes_on_while_testing() -> None:
    x = np.arange(5.0)
    layer = OneLayer('type: "SeLUDropout"', x, phase=pb.TEST)
    assert layer.forward()[0].tolist() == x.tolist()
    assert layer.backward(x)[0].tolist() == x.tolist()


@pytest.mark.parametrize("ratio", [0, 1])
def test_selu_dropout_refuses_to_drop_nothing_or_all(ratio: int) -> None:
    with pytest.raises(NetcError, match="part that is left out"):
        make_layer(f'type: "SeLUDropout" selu_dropout_param {{ dropout_ratio: {ratio} }}').infer([(2,)])
