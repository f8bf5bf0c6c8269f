"""Update rules against their formulas in float64, over arenas with gaps, multipliers and several blocks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

import netc
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime.parameters import Segment
from netc.solver import Solver
from netc.solver.rules import RULES
from netc.solver.update import Updater, merge_segments

DEFINITIONS = {
    "SGD": "momentum: 0.9",
    "Nesterov": "momentum: 0.9",
    "AdaGrad": "delta: 1e-3",
    "RMSProp": "delta: 1e-3 rms_decay: 0.9",
    "AdaDelta": "delta: 1e-3 momentum: 0.9",
    "Adam": "delta: 1e-3 momentum: 0.9 momentum2: 0.99",
}
SHAPES = [(3, 4), (5,), (7, 2), (1,)]
RATES = [(1.0, 1.0), (1.0, 1.0), (2.0, 0.0), (0.0, 1.0)]  # lr_mult, decay_mult


def sgd(p: Any, w: Any, g: Any, s: dict[str, Any], rate: float, t: int) -> Any:
    s["h"] = p.momentum * s.get("h", 0) + rate * g
    return s["h"]


def nesterov(p: Any, w: Any, g: Any, s: dict[str, Any], rate: float, t: int) -> Any:
    old = s.get("h", 0)
    s["h"] = p.momentum * old + rate * g
    return (1 + p.momentum) * s["h"] - p.momentum * old


def adagrad(p: Any, w: Any, g: Any, s: dict[str, Any], rate: float, t: int) -> Any:
    s["h"] = s.get("h", 0) + g**2
    return rate * g / (np.sqrt(s["h"]) + p.delta)


def rmsprop(p: Any, w: Any, g: Any, s: dict[str, Any], rate: float, t: int) -> Any:
    s["h"] = p.rms_decay * s.get("h", 0) + (1 - p.rms_decay) * g**2
    return rate * g / (np.sqrt(s["h"]) + p.delta)


def adadelta(p: Any, w: Any, g: Any, s: dict[str, Any], rate: float, t: int) -> Any:
    s["h"] = p.momentum * s.get("h", 0) + (1 - p.momentum) * g**2
    v = g * np.sqrt((s.get("s", 0) + p.delta) / (s["h"] + p.delta))
    s["s"] = p.momentum * s.get("s", 0) + (1 - p.momentum) * v**2
    return rate * v


def adam(p: Any, w: Any, g: Any, s: dict[str, Any], rate: float, t: int) -> Any:
    s["m"] = p.momentum * s.get("m", 0) + (1 - p.momentum) * g
    s["v"] = p.momentum2 * s.get("v", 0) + (1 - p.momentum2) * g**2
    correction = np.sqrt(1 - p.momentum2**t) / (1 - p.momentum**t)
    return rate * correction * s["m"] / (np.sqrt(s["v"]) + p.delta)


FORMULAS: dict[str, Callable[..., Any]] = {
    "SGD": sgd,
    "Nesterov": nesterov,
    "AdaGrad": adagrad,
    "RMSProp": rmsprop,
    "AdaDelta": adadelta,
    "Adam": adam,
}


class Arena:
    """Parameters as a net keeps them: flat, each beginning at a multiple of 16 elements."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.segments: list[Segment] = []
        offset = 0
        for index, (shape, (lr_mult, decay_mult)) in enumerate(zip(SHAPES, RATES, strict=True)):
            size = int(np.prod(shape))
            self.segments.append(Segment(f"p{index}", "l", index, offset, size, shape, lr_mult, decay_mult))
            offset += -(-size // 16) * 16
        self.data = np.zeros(offset, np.float32)
        self.grad = np.zeros(offset, np.float32)
        for segment in self.segments:
            self.view(self.data, segment)[...] = rng.standard_normal(segment.shape)

    def view(self, flat: np.ndarray, segment: Segment) -> np.ndarray:
        return flat[segment.offset : segment.offset + segment.count].reshape(segment.shape)

    def set_gradients(self, rng: np.random.Generator) -> list[np.ndarray]:
        self.grad[...] = 0
        for segment in self.segments:
            self.view(self.grad, segment)[...] = rng.standard_normal(segment.shape)
        return [self.view(self.grad, segment).astype(np.float64) for segment in self.segments]


def updater(arena: Any, type_name: str, text: str = "", block: int = 1 << 15) -> Updater:
    definition = text_format.Parse(f"{DEFINITIONS[type_name]} {text}", pb.SolverParameter())
    return Updater(definition, RULES[type_name](definition), arena, block=block)


def expected_after(
    type_name: str, text: str, gradients: list[list[np.ndarray]], rate: float
) -> list[np.ndarray]:
    """The parameters by the formulas in float64, one update per list of gradients."""
    arena = Arena()
    p = text_format.Parse(f"{DEFINITIONS[type_name]} {text}", pb.SolverParameter())
    weights = [arena.view(arena.data, segment).astype(np.float64) for segment in arena.segments]
    states: list[dict[str, Any]] = [{} for _ in weights]
    for t, update in enumerate(gradients, start=1):
        norm = np.sqrt(sum((g**2).sum() for g in update))
        clip = p.clip_gradients / norm if 0 <= p.clip_gradients < norm else 1
        for i, ((lr_mult, decay_mult), raw) in enumerate(zip(RATES, update, strict=True)):
            g = raw * clip / p.iter_size
            penalty = np.sign(weights[i]) if p.regularization_type == "L1" else weights[i]
            g = g + p.weight_decay * decay_mult * penalty
            weights[i] = weights[i] - FORMULAS[type_name](p, weights[i], g, states[i], rate * lr_mult, t)
    return weights


@pytest.mark.parametrize("block", [4, 1 << 15])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "weight_decay: 0.1",
        'weight_decay: 0.1 regularization_type: "L1"',
        "clip_gradients: 0.5 iter_size: 2 weight_decay: 0.1",
    ],
)
@pytest.mark.parametrize("type_name", RULES)
def test_rule_follows_its_formula(type_name: str, text: str, block: int) -> None:
    arena, rng, rate = Arena(), np.random.default_rng(1), 0.1
    update, gradients = updater(arena, type_name, text, block), []
    for iteration in range(5):
        gradients.append(arena.set_gradients(rng))
        update.apply(iteration, rate)
    for segment, expected in zip(
        arena.segments, expected_after(type_name, text, gradients, rate), strict=True
    ):
        np.testing.assert_allclose(arena.view(arena.data, segment), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("type_name", RULES)
def test_zeros_between_parameters_stay_zero(type_name: str) -> None:
    arena = Arena()
    update = updater(arena, type_name, "weight_decay: 0.1")
    used = np.zeros(len(arena.data), bool)
    for segment in arena.segments:
        used[segment.offset : segment.offset + segment.count] = True
    for iteration in range(3):
        arena.set_gradients(np.random.default_rng(iteration))
        update.apply(iteration, 0.1)
    assert not arena.data[~used].any()
    assert not any(flat[~used].any() for flat in update.history)


def test_the_gradient_holds_the_update_afterwards() -> None:
    arena = Arena()
    before = arena.data.copy()
    update = updater(arena, "SGD")
    arena.set_gradients(np.random.default_rng(0))
    update.apply(0, 0.1)
    np.testing.assert_array_equal(arena.data, before - arena.grad)


def test_a_frozen_parameter_does_not_move_but_keeps_history() -> None:
    arena = Arena()
    frozen = arena.view(arena.data, arena.segments[3])
    before = frozen.copy()
    update = updater(arena, "Adam", "weight_decay: 0.1")
    arena.set_gradients(np.random.default_rng(0))
    update.apply(0, 0.1)
    np.testing.assert_array_equal(frozen, before)
    assert arena.view(update.history[0], arena.segments[3]).any()


def test_neighbours_with_equal_multipliers_are_one_stretch() -> None:
    stretches = merge_segments(Arena().segments)
    assert [(stretch.start, stretch.stop, stretch.lr_mult) for stretch in stretches] == [
        (0, 21, 1.0),
        (32, 46, 2.0),
        (48, 49, 0.0),
    ]


def test_an_update_allocates_no_arrays() -> None:
    import tracemalloc

    size = 1 << 20
    data = np.ones(size, np.float32)
    segment = Segment("w", "l", 0, 0, size, (size,), 1.0, 1.0)
    arena = SimpleNamespace(data=data, grad=np.ones_like(data), segments=[segment])
    for type_name in RULES:
        update = updater(arena, type_name, "weight_decay: 0.1 clip_gradients: 1 iter_size: 2")
        update.apply(0, 0.1)
        tracemalloc.start()
        update.apply(1, 0.1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20000, type_name


def test_clipping_is_logged_as_caffe_does(caplog: pytest.LogCaptureFixture) -> None:
    arena = Arena()
    update = updater(arena, "SGD", "clip_gradients: 0.5")
    arena.grad[:2] = [3, 4]
    with caplog.at_level(logging.INFO, "netc"):
        update.apply(0, 0.1)
    assert caplog.messages == [
        "Gradient clipping: scaling down gradients (L2 norm 5 > 0.5) by scale factor 0.1"
    ]


@pytest.mark.parametrize(
    ("type_name", "text", "words"),
    [
        ("AdaGrad", "momentum: 0.9", "AdaGrad cannot run with momentum: 0.9"),
        ("RMSProp", "momentum: 0.9", "RMSProp cannot run with momentum: 0.9"),
        ("RMSProp", "rms_decay: 1", "RMSProp cannot run with rms_decay: 1"),
        ("Adam", "momentum: 1", "Adam cannot run with momentum: 1"),
    ],
)
def test_fields_that_a_rule_cannot_run_with_are_refused(type_name: str, text: str, words: str) -> None:
    with pytest.raises(NetcError, match=words):
        RULES[type_name](text_format.Parse(text, pb.SolverParameter()))


@pytest.mark.parametrize("make", [Solver, netc.get_solver, netc.RMSPropSolver])
def test_a_field_that_a_rule_cannot_run_with_is_found_in_the_file(
    make: Callable[[str], object], tmp_path: Path
) -> None:
    path = tmp_path / "solver.prototxt"
    path.write_text('net: "a"\ntype: "RMSProp"\nbase_lr: 1 lr_policy: "fixed"\n  momentum: 0.9\n')
    with pytest.raises(NetcError, match="RMSProp cannot run with momentum") as caught:
        make(str(path))
    assert str(caught.value.at) == f"{path}:4:3"


@pytest.mark.parametrize("type_name", RULES)
def test_history_round_trips_and_must_fit(type_name: str) -> None:
    arena = Arena()
    update = updater(arena, type_name)
    arena.set_gradients(np.random.default_rng(0))
    update.apply(0, 0.1)
    blobs = [np.array(blob) for blob in update.history_blobs()]
    assert [blob.shape for blob in blobs] == SHAPES * RULES[type_name].history_count
    other = updater(Arena(), type_name)
    other.load_history(blobs)
    for mine, theirs in zip(update.history, other.history, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(NetcError, match="does not fit this net and solver"):
        other.load_history(blobs[:-1])
    with pytest.raises(NetcError, match="another shape"):
        other.load_history([blobs[0].reshape(4, 3), *blobs[1:]])
