"""Losses and the accuracy on the device agree with their layers: what counts, the divisor, the slopes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.layers import loss_form
from netc.backends.form import Mode
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from tests.cuda.one_chain import OneChain, chain_of, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

# Scores and their axis of classes: a thread, a warp or a block to each place, and several rounds of the grid.
SCORES = {
    "few classes": ((9, 7), 1),
    "rows": ((37, 100), 1),
    "long rows": ((19, 2500), 1),
    "small images": ((2, 21, 3, 3), 1),
    "images": ((2, 5, 47, 45), 1),
    "last axis": ((3, 4, 40), 2),
    "one place": ((1, 4), 1),
}
NORMALIZERS = {
    "default": "",
    "ignoring": "ignore_label: 1",
    "full": "normalization: FULL ignore_label: 2",
    "batch": "normalization: BATCH_SIZE ignore_label: 0",
    "none": "normalization: NONE",
    "pre-fixed": "normalization: PRE_FIXED pre_fixed_normalizer: 4",
    "all ignored": "ignore_label: 3",
}


def layer(kind: str, options: str = "", tops: str = 'top: "y"') -> str:
    wanted = "propagate_down: true propagate_down: false"
    head = f'layer {{ name: "loss" type: "{kind}" bottom: "x0" bottom: "x1" {tops} '
    return f"{head} {wanted if 'Softmax' in kind or 'Sigmoid' in kind else ''} {options} }}"


def labels_of(shape: tuple[int, ...], axis: int, least: int = 0) -> Any:
    places = (*shape[:axis], *shape[axis + 1 :])
    return np.random.default_rng(1).integers(least, shape[axis], places).astype(np.float32)


def chain(device: EmulatedDevice, text: str, *bottoms: Any, **more: Any) -> OneChain:
    return OneChain(device, loss_form.FORMS, text, *bottoms, **more)


@pytest.mark.parametrize("name", SCORES)
def test_softmax_losses(fast: EmulatedDevice, name: str) -> None:
    shape, axis = SCORES[name]
    text = layer("SoftmaxWithLoss", f"softmax_param {{ axis: {axis} }}")
    chain(fast, text, 3 * drawn(*shape), labels_of(shape, axis)).check(rtol=1e-5, atol=1e-6, passes=2)


@pytest.mark.parametrize("name", ["few classes", "rows", "long rows", "small images"])
def test_softmax_losses_in_check_mode(checked: EmulatedDevice, name: str) -> None:
    checked.order, checked.seed = "random", 4
    shape, axis = SCORES[name]
    for tops in ('top: "y"', 'top: "y" top: "p"'):
        text = layer("SoftmaxWithLoss", f"softmax_param {{ axis: {axis} }}", tops)
        chain(checked, text, 3 * drawn(*shape), labels_of(shape, axis)).check(rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_normalizers_and_ignored_labels(device: EmulatedDevice, normalizer: str) -> None:
    shape = (3, 5, 4, 3)
    labels = np.full((3, 4, 3), 3.0) if normalizer == "all ignored" else labels_of(shape, 1)
    text = layer("SoftmaxWithLoss", f"loss_param {{ {NORMALIZERS[normalizer]} }}")
    chain(device, text, drawn(*shape), labels).check(rtol=1e-5, atol=1e-6)


def test_class_weights(device: EmulatedDevice) -> None:
    options = "loss_param { class_weight: 1 class_weight: 0.5 class_weight: 2 ignore_label: 0 }"
    x, labels = drawn(6, 3, 5), labels_of((6, 3, 5), 1)
    chain(device, layer("SoftmaxWithLoss", options), x, labels).check(rtol=1e-5, atol=1e-6)


def test_a_class_of_no_probability_costs_as_much_as_the_smallest_float(device: EmulatedDevice) -> None:
    x = np.array([[0, 1000, 0], [0, 0, 0]], np.float32)
    chain(device, layer("SoftmaxWithLoss"), x, [0, 1]).check(rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label", [-1, 3, np.nan])
def test_a_label_that_is_no_class_makes_the_loss_nan_and_gives_no_gradient(
    device: EmulatedDevice, label: float
) -> None:
    x = drawn(4, 3)
    one = chain(device, layer("SoftmaxWithLoss"), x, [0, label, 2, 1])
    assert np.isnan(one.forward()[0])
    slopes = one.backward([np.ones(())])[0]
    probability = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    wanted = (probability - np.eye(3)[[0, 0, 2, 1]]) / 4
    wanted[1] = 0
    np.testing.assert_allclose(slopes, wanted, rtol=1e-5, atol=1e-7)


IGNORING = {
    "SoftmaxWithLoss": "loss_param { ignore_label: 7 }",
    "Accuracy": "accuracy_param { ignore_label: 7 }",
}


@pytest.mark.parametrize("kind", IGNORING)
@pytest.mark.parametrize("shape", [(70, 3), (3, 4, 50)])
def test_labels_that_are_no_classes_give_the_layers_error(
    device: EmulatedDevice, kind: str, shape: tuple[int, ...]
) -> None:
    """It names the first of them and their number; an ignored one is none of them."""
    labels = labels_of(shape, 1)
    labels.reshape(-1)[[20, 30, 65]] = 7, 99, -2
    one = chain(device, layer(kind, IGNORING[kind]), drawn(*shape), labels)
    assert np.isnan(one.forward()[0])
    with pytest.raises(NetcError) as wanted:
        one.expected_forward()
    found = one.form.complaint()
    assert str(found) == str(wanted.value)
    assert wanted.value.found == f"99; 2 of {labels.size} labels are out of range"
    assert one.form.complaint() is None
    one.bottoms[1] = labels_of(shape, 1)
    assert np.isfinite(one.forward()[0])
    assert one.form.complaint() is None


def test_a_label_is_cut_to_an_integer(device: EmulatedDevice) -> None:
    text = layer("SoftmaxWithLoss", "loss_param { ignore_label: 2 }")
    chain(device, text, drawn(4, 3), [-0.5, 1.9, 2.5, 0]).check(rtol=1e-5, atol=1e-6)


def test_without_backward_nothing_is_saved(fast: EmulatedDevice) -> None:
    one = chain(fast, layer("SoftmaxWithLoss"), drawn(4, 3), [0, 1, 2, 0], mode=Mode(backward=False))
    assert not one.form.saved
    np.testing.assert_allclose(one.forward()[0], one.expected_forward()[0], rtol=1e-6)


@pytest.mark.parametrize("top", ["f", "g"])
def test_scores_that_another_layer_overwrites_have_no_form(fast: EmulatedDevice, top: str) -> None:
    text = 'layer { name: "r" type: "ReLU" bottom: "x0" top: "x0" }' + layer("SoftmaxWithLoss")
    text += 'layer { name: "f" type: "Flatten" bottom: "x0" top: "f" }'
    text += f'layer {{ name: "s" type: "Softmax" bottom: "f" top: "{top}" }}'
    (loss,) = (node for node in chain_of(text, (4, 3), (4,)) if node.type == "SoftmaxWithLoss")
    form = loss_form.make_softmax_loss([loss], Mode(), fast)
    assert (form is None) is (top == "f")  # in place it writes where the scores lie
    assert loss_form.make_softmax_loss([loss], Mode(backward=False), fast) is not None


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("options", ["", "top_k: 3", "ignore_label: 1"])
def test_accuracies(fast: EmulatedDevice, name: str, options: str) -> None:
    shape, axis = SCORES[name]
    text = layer("Accuracy", f"accuracy_param {{ axis: {axis} {options} }}")
    chain(fast, text, drawn(*shape), labels_of(shape, axis), phase=pb.TEST).check()


@pytest.mark.parametrize("name", ["few classes", "rows", "long rows"])
def test_accuracies_in_check_mode(checked: EmulatedDevice, name: str) -> None:
    checked.order, checked.seed = "random", 4
    shape, axis = SCORES[name]
    chain(checked, layer("Accuracy"), drawn(*shape), labels_of(shape, axis)).check()


def test_a_tie_counts_against_the_label(device: EmulatedDevice) -> None:
    one = chain(device, layer("Accuracy"), [[1, 1, 0], [0, 2, 1], [np.nan, 0, 0]], [0, 1, 0])
    one.check()
    np.testing.assert_allclose(one.forward()[0], 2 / 3, rtol=1e-6)


def test_an_accuracy_of_wrong_labels_is_nan_and_one_for_each_class_has_no_form(fast: EmulatedDevice) -> None:
    assert np.isnan(chain(fast, layer("Accuracy"), drawn(2, 3), [0, 5]).forward()[0])
    text = layer("Accuracy", tops='top: "y" top: "z"')
    assert loss_form.make_accuracy(chain_of(text, (2, 3), (2,)), Mode(), fast) is None


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 16), (7, 10_001)])
def test_euclidean_losses(fast: EmulatedDevice, shape: tuple[int, ...]) -> None:
    one = chain(fast, layer("EuclideanLoss"), drawn(*shape), drawn(*shape, seed=2))
    one.check(rtol=1e-5, atol=1e-6)


def test_a_euclidean_loss_in_check_mode_with_a_gradient_for_one_bottom(checked: EmulatedDevice) -> None:
    for wanted in (
        "propagate_down: true propagate_down: false",
        "propagate_down: false propagate_down: true",
    ):
        text = layer("EuclideanLoss", wanted)
        chain(checked, text, drawn(3, 7), drawn(3, 7, seed=2)).check(rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_sigmoid_losses(device: EmulatedDevice, normalizer: str) -> None:
    targets = np.random.default_rng(1).integers(0, 4, (5, 7)).astype(np.float32)
    text = layer("SigmoidCrossEntropyLoss", f"loss_param {{ {NORMALIZERS[normalizer]} }}")
    chain(device, text, 3 * drawn(5, 7), targets).check(rtol=1e-5, atol=1e-6)


def test_sigmoid_losses_of_large_scores_and_many_elements(fast: EmulatedDevice) -> None:
    x = 20 * drawn(3, 23_001)
    x[0, :3] = [200, -200, 0]
    targets = np.random.default_rng(1).random(x.shape).astype(np.float32)
    chain(fast, layer("SigmoidCrossEntropyLoss"), x, targets).check(rtol=1e-5, atol=1e-6)
