"""Losses that give every region's own, and the choice of the hard ones."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import OneLayer, gradients, make_layer, run

RNG = np.random.default_rng(12)
TOPS = 'top: "loss" top: "prob" top: "each"'


def test_each_places_loss_adds_up_to_the_loss() -> None:
    scores, labels = RNG.standard_normal((2, 5, 3)), RNG.integers(0, 5, (2, 3)).astype(float)
    labels[0, 1] = -1
    text = f'type: "SoftmaxWithLossOHEM" {TOPS} loss_param {{ ignore_label: -1 }}'
    loss, probability, each = run(text, scores, labels, dtype=np.float64)
    assert each.shape == (2, 3)
    assert each[0, 1] == 0
    assert each[1, 2] == pytest.approx(-np.log(probability[1, int(labels[1, 2]), 2]))
    assert loss == pytest.approx(each.sum() / 5)


def test_gradients_of_the_further_tops_go_nowhere() -> None:
    scores, labels = RNG.standard_normal((4, 3)), np.array([0.0, 2, 1, 1])
    plain = gradients('type: "SoftmaxWithLoss"', scores, labels, top_grads=[1.0])[0]
    found = gradients(
        f'type: "SoftmaxWithLossOHEM" {TOPS}', scores, labels, top_grads=[1.0, np.ones((4, 3)), np.ones(4)]
    )[0]
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize(
    ("options", "divisor"),
    [
        ("", 12),
        ("loss_param { normalization: FULL }", 12),
        ("loss_param { normalization: BATCH_SIZE }", 2),
        ("loss_param { normalize: false }", 2),
        ("loss_param { normalization: NONE }", 1),
        ("loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 8 }", 8),
        ("loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 0.1 }", 1),
    ],
)
def test_smooth_l1_divides_by_the_places(options: str, divisor: float) -> None:
    a, b = RNG.standard_normal((2, 4, 3, 2)), RNG.standard_normal((2, 4, 3, 2))
    text = f'type: "SmoothL1LossOHEM" top: "loss" top: "each" loss_weight: 1 loss_weight: 0 {options}'
    loss, each = run(text, a, b, dtype=np.float64)
    size = np.abs(a - b)
    value = np.where(size < 1, size**2 / 2, size - 0.5)
    assert each.shape == (2, 1, 3, 2)
    np.testing.assert_allclose(each[:, 0], value.sum(axis=1))
    assert loss == pytest.approx(value.sum() / divisor)


@pytest.mark.parametrize(
    ("options", "divisor"),
    [("normalization: PRE_FIXED pre_fixed_normalizer: 8", 8), ("normalization: PRE_FIXED", 1)],
)
def test_softmax_loss_knows_pre_fixed(options: str, divisor: float) -> None:
    scores, labels = RNG.standard_normal((4, 3)), np.array([0.0, 2, 1, 1])
    fixed = run(f'type: "SoftmaxWithLoss" loss_param {{ {options} }}', scores, labels)[0]
    total = run('type: "SoftmaxWithLoss" loss_param { normalization: NONE }', scores, labels)[0]
    assert fixed == pytest.approx(total / divisor)


def annotate(options: str, *bottoms: object) -> list[np.ndarray]:
    return run(f'type: "BoxAnnotatorOHEM" box_annotator_ohem_param {{ {options} }}', *bottoms)


def test_the_regions_of_largest_loss_of_each_image_are_kept() -> None:
    regions = np.zeros((6, 5))
    regions[:, 0] = [0, 1, 0, 0, 1, 0]
    losses, labels = np.array([1.0, 9, 3, 2, 8, 3])[:, None], np.arange(6.0)[:, None]
    weights = np.arange(12.0).reshape(6, 2)
    kept_labels, kept_weights = annotate("roi_per_img: 2 ignore_label: 255", regions, losses, labels, weights)
    assert kept_labels.shape == (6, 1, 1, 1)
    assert kept_labels.ravel().tolist() == [255, 1, 2, 255, 4, 5]
    assert kept_weights.reshape(6, 2).tolist() == [[0, 0], [2, 3], [4, 5], [0, 0], [8, 9], [10, 11]]


def test_more_than_there_are_keeps_all() -> None:
    regions = np.array([[1.0, 0, 0, 1, 1], [1, 0, 0, 1, 1]])
    labels, _ = annotate("roi_per_img: 5", regions, np.ones((2, 1)), np.array([[3.0], [4]]), np.ones((2, 4)))
    assert labels.ravel().tolist() == [3, 4]


def test_maps_of_regions_are_taken_cell_by_cell() -> None:
    regions = np.zeros((1, 5, 2, 2))
    losses = np.array([[[[4.0, 1], [3, 2]]]])
    labels, weights = annotate(
        "roi_per_img: 2", regions, losses, np.full((1, 1, 2, 2), 7.0), np.ones((1, 3, 2, 2))
    )
    assert labels[0, 0].tolist() == [[7, -1], [7, -1]]
    assert weights[0, 2].tolist() == [[1, 0], [1, 0]]


def test_no_gradient_passes_the_choice() -> None:
    bottoms = (np.zeros((2, 5)), np.ones((2, 1)), np.ones((2, 1)), np.ones((2, 4)))
    layer = OneLayer('type: "BoxAnnotatorOHEM" box_annotator_ohem_param { roi_per_img: 1 }', *bottoms)
    layer.forward()
    assert not any(grad.any() for grad in layer.backward(np.ones((2, 1, 1, 1)), np.ones((2, 4, 1, 1))))


@pytest.mark.parametrize(
    ("options", "shapes", "message"),
    [
        ("roi_per_img: 0", [(3, 5), (3, 1), (3, 1), (3, 4)], "at least 1"),
        ("roi_per_img: 1", [(3, 4), (3, 1), (3, 1), (3, 4)], "bottom 0"),
        ("roi_per_img: 1", [(3, 5), (3, 2), (3, 1), (3, 4)], "bottom 1"),
        ("roi_per_img: 1", [(3, 5), (3, 1), (2, 1), (3, 4)], "bottom 2"),
        ("roi_per_img: 1", [(3, 5), (3, 1), (3, 1), (2, 4)], "bottom 3"),
    ],
)
def test_bottoms_that_do_not_fit_are_refused(
    options: str, shapes: list[tuple[int, ...]], message: str
) -> None:
    layer = make_layer(f'type: "BoxAnnotatorOHEM" box_annotator_ohem_param {{ {options} }}', bottoms=4)
    with pytest.raises(NetcError, match=message):
        layer.infer(shapes)


def test_a_region_of_no_image_is_an_error() -> None:
    with pytest.raises(NetcError, match="does not have"):
        annotate("roi_per_img: 1", np.full((1, 5), -1.0), np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 4)))
