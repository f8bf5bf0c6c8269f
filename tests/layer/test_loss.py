"""Losses: values worked by hand, slopes, normalizers, ignored and impossible labels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import OneLayer, check_slopes, gradients, make_layer, run

SCORES = np.random.default_rng(0).standard_normal((2, 4, 3, 2))
LABELS = np.random.default_rng(1).integers(0, 4, (2, 3, 2)).astype(float)


def log_likelihoods(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The log softmax probability of each label, along axis 1."""
    probability = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return np.log(np.take_along_axis(probability, labels[:, None].astype(int), 1)[:, 0])


def test_softmax_loss_of_equal_scores_is_the_log_of_the_classes() -> None:
    (loss,) = run('type: "SoftmaxWithLoss"', np.zeros((5, 10)), np.arange(5))
    assert loss.shape == ()
    assert loss == pytest.approx(math.log(10))


def test_softmax_loss_gradient_is_probability_minus_truth() -> None:
    dx, dlabel = gradients(
        'type: "SoftmaxWithLoss"', [[0.0, 0.0], [0.0, 0.0]], [0, 1], top_grads=[np.array(1.0)]
    )
    np.testing.assert_allclose(dx, [[-0.25, 0.25], [0.25, -0.25]])
    assert dlabel is None


@pytest.mark.parametrize(
    ("options", "divisor"),
    [
        ("", 12),
        ("loss_param { normalization: FULL }", 12),
        ("loss_param { normalization: VALID }", 12),
        ("loss_param { normalization: BATCH_SIZE }", 2),
        ("loss_param { normalization: NONE }", 1),
        ("loss_param { normalize: true }", 12),
        ("loss_param { normalize: false }", 2),
        ("loss_param { normalize: false normalization: FULL }", 12),
    ],
)
def test_softmax_loss_is_normalized_like_caffe(options: str, divisor: int) -> None:
    text = f'type: "SoftmaxWithLoss" {options}'
    total = -log_likelihoods(SCORES, LABELS).sum()
    assert run(text, SCORES, LABELS)[0] == pytest.approx(total / divisor, rel=1e-5)
    check_slopes_of_scores(text, SCORES, LABELS)


def check_slopes_of_scores(text: str, scores: np.ndarray, labels: np.ndarray) -> None:
    """The gradient of the scores is the loss's slope, at a loss weight other than 1."""
    layer = OneLayer(text, scores, labels, dtype=np.float64)
    layer.forward()
    dx = layer.backward(np.array(0.7))[0]
    assert dx is not None
    for place in [(0, 0), (1, 2), (scores.shape[0] - 1, scores.shape[1] - 1)]:
        full = place + (0,) * (scores.ndim - 2)
        step = np.zeros_like(scores)
        step[full] = 1e-6
        up, down = (run(text, scores + sign * step, labels, dtype=np.float64)[0] for sign in (1, -1))
        assert dx[full] == pytest.approx(0.7 * (up - down) / 2e-6, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("normalization", ["FULL", "VALID", "BATCH_SIZE", "NONE"])
def test_softmax_loss_leaves_ignored_labels_out(normalization: str) -> None:
    text = f'type: "SoftmaxWithLoss" loss_param {{ ignore_label: 255 normalization: {normalization} }}'
    labels = LABELS.copy()
    labels[0, 0, 1] = labels[1, 2, 0] = 255
    counts = labels != 255
    divisor = {"FULL": 12, "VALID": 10, "BATCH_SIZE": 2, "NONE": 1}[normalization]
    total = -log_likelihoods(SCORES, np.where(counts, labels, 0))[counts].sum()
    assert run(text, SCORES, labels)[0] == pytest.approx(total / divisor, rel=1e-5)
    check_slopes_of_scores(text, SCORES, labels)
    dx = gradients(text, SCORES, labels, top_grads=[np.array(1.0)])[0]
    assert dx is not None
    assert not dx[0, :, 0, 1].any()
    assert dx[0, :, 0, 0].any()


def test_an_ignored_pixel_hides_even_a_nan() -> None:
    text = 'type: "SoftmaxWithLoss" loss_param { ignore_label: 9 }'
    scores = [[0.0, 0.0], [np.nan, 0.0]]
    assert run(text, scores, [0, 9])[0] == pytest.approx(math.log(2))
    np.testing.assert_allclose(
        gradients(text, scores, [0, 9], top_grads=[np.array(1.0)])[0], [[-0.5, 0.5], [0, 0]]
    )


def test_a_normalizer_is_never_below_one() -> None:
    text = 'type: "SoftmaxWithLoss" loss_param { ignore_label: 0 }'
    assert run(text, [[1.0, 2.0]], [0])[0] == 0
    np.testing.assert_array_equal(gradients(text, [[1.0, 2.0]], [0], top_grads=[np.array(1.0)])[0], [[0, 0]])


def test_softmax_loss_clamps_the_probability() -> None:
    (loss,) = run('type: "SoftmaxWithLoss"', [[0.0, 1000.0]], [0])
    assert loss == pytest.approx(-math.log(np.finfo(np.float32).tiny), rel=1e-6)


def test_softmax_loss_has_a_second_top_of_probabilities() -> None:
    text = 'type: "SoftmaxWithLoss" top: "loss" top: "p"'
    _, probability = run(text, SCORES, LABELS)
    np.testing.assert_allclose(probability, run('type: "Softmax"', SCORES)[0], rtol=1e-6)
    beside = gradients('type: "SoftmaxWithLoss"', SCORES, LABELS, top_grads=[np.array(2.0)])[0]
    np.testing.assert_array_equal(gradients(text, SCORES, LABELS, top_grads=[np.array(2.0), None])[0], beside)
    alone = gradients(text, SCORES, LABELS, top_grads=[None, np.ones_like(SCORES)])[0]
    assert alone is not None
    assert not alone.any()


def test_softmax_loss_takes_any_axis_and_labels_with_an_axis_of_one() -> None:
    text = 'type: "SoftmaxWithLoss" softmax_param { axis: -1 }'
    last = np.moveaxis(SCORES, 1, -1)
    expected = run('type: "SoftmaxWithLoss"', SCORES, LABELS)[0]
    assert run(text, last, LABELS)[0] == pytest.approx(float(expected), rel=1e-6)
    assert run('type: "SoftmaxWithLoss"', SCORES, LABELS[:, None])[0] == expected


@pytest.mark.parametrize("kind", ["SoftmaxWithLoss", "HingeLoss"])
@pytest.mark.parametrize("label", [3, -1, 255, np.nan, np.inf])
def test_a_label_that_is_no_class_is_named(kind: str, label: float) -> None:
    layer = OneLayer(
        f'type: "{kind}" name: "cost" bottom: "fc" bottom: "label"', np.zeros((2, 3)), [0, label]
    )
    with pytest.raises(NetcError) as error:
        layer.forward()
    message = str(error.value)
    assert f"label {label:g} is not a class" in message
    assert f"cost ({kind})" in message
    assert "0 to 2, for 3 classes" in message
    assert "1 of 2 labels" in message


def test_labels_are_cut_to_integers_like_caffe() -> None:
    text = 'type: "SoftmaxWithLoss"'
    scores = [[0.0, 1.0], [0.0, 2.0]]
    assert run(text, scores, [0.9, -0.5])[0] == run(text, scores, [0, 0])[0]


@pytest.mark.parametrize(
    ("kind", "shapes", "message"),
    [
        ("SoftmaxWithLoss", [(2, 4, 3), (2,)], "number of labels must match"),
        ("SoftmaxWithLoss", [(2, 4), (2, 4)], "number of labels must match"),
        ("SoftmaxWithLoss", [(2, 4), (3,)], "same first axis"),
        ("SoftmaxWithLoss", [(2, 4), ()], "same first axis"),
        ("EuclideanLoss", [(2, 4), (3, 4)], "same first axis"),
        ("EuclideanLoss", [(2, 4), (2, 5)], "as many elements"),
        ("HingeLoss", [(2, 4), (2, 2)], "one label for each row"),
        ("SigmoidCrossEntropyLoss", [(2, 4), (2, 3)], "one target for each score"),
    ],
)
def test_bottoms_that_do_not_fit_are_refused(kind: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(NetcError, match=message) as error:
        make_layer(f'type: "{kind}" bottom: "fc" bottom: "truth"').infer(shapes)
    assert error.value.blob == "truth"
    assert error.value.found is not None


def test_euclidean_loss_gives_both_bottoms_a_gradient() -> None:
    a, b = np.array([[1.0, 2], [3, 4]]), np.array([[0.0, 2], [5, 1]])
    assert run('type: "EuclideanLoss"', a, b)[0] == pytest.approx((1 + 4 + 9) / 2 / 2)
    da, db = gradients('type: "EuclideanLoss"', a, b, top_grads=[np.array(3.0)])
    np.testing.assert_allclose(da, 3 * (a - b) / 2)
    np.testing.assert_allclose(db, 3 * (b - a) / 2)
    check_slopes('type: "EuclideanLoss"', a, b)


def test_hinge_loss_asks_for_a_margin_of_one() -> None:
    scores = np.array([[2.0, -2.0, 0.5], [0.0, 0.0, -3.0]])
    labels = [0, 1]
    margins = [0 + 0 + 1.5, 1 + 1 + 0]
    assert run('type: "HingeLoss"', scores, labels)[0] == pytest.approx(sum(margins) / 2)
    l2 = 'type: "HingeLoss" hinge_loss_param { norm: L2 }'
    assert run(l2, scores, labels)[0] == pytest.approx((1.5**2 + 1 + 1) / 2)
    dx, _ = gradients('type: "HingeLoss"', scores, labels, top_grads=[np.array(2.0)])
    np.testing.assert_array_equal(dx, [[0, 0, 1], [1, -1, 0]])
    check_slopes_of_scores(l2, scores, np.array(labels, float))


@pytest.mark.parametrize(
    ("options", "divisor"),
    [
        ("", 2),
        ("normalization: VALID", 8),
        ("normalization: FULL", 8),
        ("normalization: NONE", 1),
        ("normalize: true", 8),
    ],
)
def test_sigmoid_cross_entropy_divides_by_the_batch_unless_told(options: str, divisor: int) -> None:
    x = np.random.default_rng(2).standard_normal((2, 4))
    t = np.random.default_rng(3).random((2, 4))
    s = 1 / (1 + np.exp(-x))
    total = -(t * np.log(s) + (1 - t) * np.log(1 - s)).sum()
    text = f'type: "SigmoidCrossEntropyLoss" loss_param {{ {options} }}'
    assert run(text, x, t)[0] == pytest.approx(total / divisor, rel=1e-5)
    check_slopes_of_scores(text, x, t)


def test_sigmoid_cross_entropy_leaves_ignored_targets_out() -> None:
    text = 'type: "SigmoidCrossEntropyLoss" loss_param { ignore_label: -1 normalization: VALID }'
    x, t = [[1.0, 2.0, -3.0]], [[1.0, -1.0, 0.0]]
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(-3))) / 2
    assert run(text, x, t)[0] == pytest.approx(expected, rel=1e-6)
    dx, dt = gradients(text, x, t, top_grads=[np.array(1.0)])
    assert dx is not None
    assert dt is None
    assert dx[0, 1] == 0
    assert dx[0, 0] == pytest.approx((1 / (1 + math.exp(-1)) - 1) / 2)


def test_sigmoid_cross_entropy_does_not_overflow() -> None:
    with np.errstate(over="raise", invalid="raise"):
        (loss,) = run('type: "SigmoidCrossEntropyLoss"', [[1000.0, -1000.0]], [[0.0, 1.0]])
    assert loss == pytest.approx(2000)


def test_softmax_loss_works_on_one_example_of_one_class() -> None:
    assert run('type: "SoftmaxWithLoss"', [[3.0]], [0])[0] == 0


@pytest.mark.parametrize(
    "weights",
    [
        "class_weight: 1 class_weight: 0.5 class_weight: 4",
        "weight_by_label_freqs: true class_weighting: 1 class_weighting: 0.5 class_weighting: 4",
    ],
)
def test_class_weights_weigh_each_place_by_its_label(weights: str) -> None:
    rng = np.random.default_rng(7)
    scores, labels = rng.standard_normal((2, 3, 4)), rng.integers(0, 3, (2, 4)).astype(float)
    labels[1, 2] = 255
    text = f'type: "SoftmaxWithLoss" loss_param {{ ignore_label: 255 {weights} }}'
    (loss,) = run(text, scores, labels, dtype=np.float64)
    likelihood = np.log(np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True))
    expected = 0.0
    for n, place in np.ndindex(2, 4):
        if labels[n, place] != 255:
            label = int(labels[n, place])
            expected -= (1, 0.5, 4)[label] * likelihood[n, label, place]
    assert loss == pytest.approx(expected / 7)
    layer = OneLayer(text, scores, labels, dtype=np.float64)
    layer.forward()
    (slope,) = layer.backward(1.0, wanted=[True, False])[:1]
    for place in np.ndindex(scores.shape):
        moved = [scores.copy(), scores.copy()]
        moved[0][place] += 1e-6
        moved[1][place] -= 1e-6
        values = [float(run(text, x, labels, dtype=np.float64)[0]) for x in moved]
        assert slope[place] == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-7)


def test_class_weights_must_be_as_many_as_the_classes() -> None:
    with pytest.raises(NetcError, match="one weight per class") as error:
        run('type: "SoftmaxWithLoss" loss_param { class_weight: 1 }', np.zeros((2, 3)), [0, 1])
    assert error.value.found == 1


def test_class_weighting_without_its_switch_says_so(caplog: pytest.LogCaptureFixture) -> None:
    text = 'type: "SoftmaxWithLoss" loss_param { class_weighting: 1 class_weighting: 9 }'
    plain = run('type: "SoftmaxWithLoss"', np.zeros((2, 2)), [0, 1])[0]
    assert run(text, np.zeros((2, 2)), [0, 1])[0] == plain
    assert "class_weighting has no effect" in caplog.text
