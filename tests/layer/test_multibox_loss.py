"""MultiBoxLoss: which priors count, what they cost, and the slope of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from netc.errors import NetcError
from netc.layer.box_choice import UNMATCHED
from netc.layer.box_mining import Mining
from netc.proto import netc_pb2 as pb
from tests.layer.one_layer import OneLayer, make_layer

# Four priors: one on each true box, one beside the first, one far from both.
PRIORS = np.array([[0.0, 0.0, 0.4, 0.4], [0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 0.4, 0.3], [0.6, 0.0, 1.0, 0.3]])
VARIANCES = np.array([0.1, 0.1, 0.2, 0.2])
TRUTHS = [[0, 1, 0, 0.0, 0.0, 0.4, 0.4, 0], [0, 2, 1, 0.5, 0.5, 1.0, 1.0, 0]]
CLASSES = 3
RANDOM = np.random.default_rng(5)


def loss_of(
    options: str, loc: Any, conf: Any, truths: Any = TRUTHS, more: str = "", dtype: Any = np.float64
) -> OneLayer:
    """The layer after a forward, over PRIORS."""
    priors = np.stack([PRIORS, np.tile(VARIANCES, (4, 1))]).reshape(1, 2, -1)
    layer = OneLayer(
        f'type: "MultiBoxLoss" {more} multibox_loss_param {{ num_classes: {CLASSES} {options} }}',
        np.reshape(loc, (len(loc), -1)),
        np.reshape(conf, (len(conf), -1)),
        priors,
        np.reshape(truths, (1, 1, -1, 8)),
        dtype=dtype,
    )
    layer.forward()
    return layer


def total(*arguments: Any, **options: Any) -> float:
    return float(loss_of(*arguments, **options).buffers.tops[0])


def zeros(images: int = 1) -> tuple[Any, Any]:
    return np.zeros((images, 4, 4)), np.zeros((images, 4, CLASSES))


NO_LOC = "propagate_down: false propagate_down: true propagate_down: false propagate_down: false"
NO_CONF = "propagate_down: true propagate_down: false propagate_down: false propagate_down: false"


def test_right_offsets_cost_nothing_and_even_scores_the_logarithm_of_the_classes() -> None:
    # Priors 0, 1 and 2 match (2 overlaps the first true box by 3/4); the far one is mined as a negative.
    loc, conf = zeros()
    assert total("match_type: BIPARTITE", loc, conf, more=NO_CONF) == 0
    # CORNER offset of prior 2: ymax 0.3 to 0.4 in units of the variance, 0.2; smooth L1 over 3 matches.
    assert total("", loc, conf, more=NO_CONF) == pytest.approx(0.5 * 0.5**2 / 3)
    assert total("", loc, conf, more=NO_LOC) == pytest.approx(4 * np.log(3) / 3)
    assert total("", loc, conf) == pytest.approx((0.5 * 0.5**2 + 4 * np.log(3)) / 3)


def test_location_weight_and_kind_of_loss() -> None:
    loc, conf = zeros()
    loc[0, 0, 0] = 3
    options = "match_type: BIPARTITE loc_weight: 2"
    assert total(options, loc, conf, more=NO_CONF) == pytest.approx(2 * 2.5 / 2)
    assert total(f"{options} loc_loss_type: L2", loc, conf, more=NO_CONF) == pytest.approx(2 * 4.5 / 2)


@pytest.mark.parametrize(
    ("normalization", "divisor"), [("VALID", 3), ("FULL", 8), ("BATCH_SIZE", 2), ("NONE", 1)]
)
def test_the_sum_is_divided_as_loss_param_says(normalization: str, divisor: int) -> None:
    loc, conf = zeros(2)
    more = f"loss_param {{ normalization: {normalization} }} {NO_LOC}"
    assert total("mining_type: NONE", loc, conf, more=more) == pytest.approx(8 * np.log(3) / divisor)


def test_an_image_without_true_boxes_has_negatives_only_without_mining() -> None:
    loc, conf = zeros(2)
    assert total("", loc, conf, more=NO_LOC) == pytest.approx(4 * np.log(3) / 3)
    assert total("mining_type: NONE", loc, conf, more=NO_LOC) == pytest.approx(8 * np.log(3) / 3)
    assert total("", loc, conf, truths=[[-1] * 8]) == 0


def test_the_negatives_of_largest_loss_are_taken_as_many_as_the_ratio_allows() -> None:
    loc, conf = zeros()
    conf[0, 3] = [0, 1, 0]  # more wrong about the background than the others
    truths = TRUTHS[1:]  # prior 1 matches; 0, 2 and 3 may be negatives
    layer = loss_of("neg_pos_ratio: 1", loc, conf, truths)
    _, slope = layer.backward(1.0)[:2]
    np.testing.assert_array_equal(slope.reshape(4, CLASSES).any(axis=1), [False, True, False, True])
    slope = loss_of("neg_pos_ratio: 2.9", loc, conf, truths).backward(1.0)[1]
    assert slope.reshape(4, CLASSES).any(axis=1).sum() == 3


def test_a_prior_that_overlaps_too_much_is_no_negative() -> None:
    loc, conf = zeros()
    options = "match_type: BIPARTITE neg_pos_ratio: 10"
    slope = loss_of(f"{options} neg_overlap: 0.7", loc, conf).backward(1.0)[1]
    np.testing.assert_array_equal(slope.reshape(4, CLASSES).any(axis=1), [True, True, False, True])
    slope = loss_of(f"{options} neg_overlap: 0.8", loc, conf).backward(1.0)[1]
    assert slope.reshape(4, CLASSES).any(axis=1).all()


def test_hard_examples_undo_the_matches_of_small_loss() -> None:
    loc, conf = zeros()
    loc[0, 1] = 5
    layer = loss_of("mining_type: HARD_EXAMPLE sample_size: 1", loc, conf)
    offset_slope, score_slope = layer.backward(1.0)[:2]
    np.testing.assert_array_equal(offset_slope.reshape(4, 4), [[0] * 4, [1] * 4, [0] * 4, [0] * 4])
    np.testing.assert_allclose(
        score_slope.reshape(4, CLASSES), [[0] * 3, [1 / 3, 1 / 3, -2 / 3], [0] * 3, [0] * 3], atol=1e-12
    )


def test_difficult_boxes_can_be_left_out() -> None:
    truths = np.array(TRUTHS)
    truths[0, 7] = 1
    loc, conf = zeros()
    slope = loss_of("use_difficult_gt: false mining_type: NONE", loc, conf, truths).backward(1.0)[1]
    np.testing.assert_array_equal(slope.reshape(4, CLASSES).argmin(axis=1), [0, 2, 0, 0])


def test_agnostic_detection_knows_one_class_of_objects() -> None:
    truths = np.array(TRUTHS)
    truths[:, 1] = [7, 9]
    loc, conf = zeros()
    slope = loss_of("map_object_to_agnostic: true mining_type: NONE", loc, conf, truths).backward(1.0)[1]
    np.testing.assert_array_equal(slope.reshape(4, CLASSES).argmin(axis=1), [1, 1, 1, 0])


def test_every_class_may_have_boxes_of_its_own() -> None:
    loc = np.zeros((1, 4, CLASSES, 4))
    conf = np.zeros((1, 4, CLASSES))
    for matching in ("", "use_prior_for_matching: false"):
        options = f"share_location: false mining_type: NONE match_type: BIPARTITE {matching}"
        loc[0, :, :, 0] = 0.5
        slope = loss_of(options, loc, conf).backward(1.0)[0].reshape(4, CLASSES, 4)
        moved = {(int(p), int(c)) for p, c, _ in np.argwhere(slope)}
        assert moved == {(0, 1), (1, 2)}


def test_coordinates_outside_of_the_image_cost_nothing_with_bp_inside() -> None:
    loc, conf = zeros()
    loc[0, :, :] = 1
    truths = [[0, 1, 0, -0.2, 0.0, 0.4, 0.4, 0]]
    layer = loss_of("bp_inside: true match_type: BIPARTITE", loc, conf, truths)
    assert layer.backward(1.0)[0].reshape(4, 4)[0].all()  # priors lie inside: all four count
    crossing = "bp_inside: true match_type: BIPARTITE use_prior_for_matching: false"
    loc[0, :, :] = [-1, 1, 1, 1]  # decoded, prior 2 overlaps most; its left edge lies at -0.1
    slope = loss_of(crossing, loc, conf, truths).backward(1.0)[0].reshape(4, 4)[2]
    np.testing.assert_array_equal(slope != 0, [False, True, True, True])


@pytest.mark.parametrize(
    "options",
    [
        "",
        "code_type: CENTER_SIZE loc_loss_type: L2 loc_weight: 0.5",
        "code_type: CORNER_SIZE conf_loss_type: LOGISTIC",
        "conf_loss_type: LOGISTIC mining_type: NONE",
        "mining_type: HARD_EXAMPLE sample_size: 3",
        "mining_type: HARD_EXAMPLE sample_size: 3 nms_param { nms_threshold: 0.5 top_k: 4 }",
        "share_location: false mining_type: NONE",
    ],
)
def test_the_gradient_is_the_slope(options: str) -> None:
    slots = CLASSES if "share_location: false" in options else 1
    loc, conf = RANDOM.normal(size=(2, 16 * slots)), RANDOM.normal(size=(2, 4 * CLASSES))
    priors = np.stack([PRIORS, np.tile(VARIANCES, (4, 1))]).reshape(1, 2, -1)
    truths = np.reshape([*TRUTHS, [1, 2, 0, 0.6, 0.1, 0.9, 0.3, 0]], (1, 1, -1, 8))

    def run(blobs: list[Any]) -> OneLayer:
        text = f'type: "MultiBoxLoss" multibox_loss_param {{ num_classes: {CLASSES} {options} }}'
        layer = OneLayer(text, *blobs, priors, truths, dtype=np.float64)
        layer.forward()
        return layer

    found = run([loc, conf]).backward(1.0)
    assert found[2] is None
    assert found[3] is None
    for i, values in enumerate((loc, conf)):
        for place in np.ndindex(values.shape):
            kept, totals = values[place], []
            for moved in (kept + 1e-6, kept - 1e-6):
                values[place] = moved
                totals.append(float(run([loc, conf]).buffers.tops[0]))
            values[place] = kept
            assert found[i][place] == pytest.approx((totals[0] - totals[1]) / 2e-6, abs=1e-6)


def mining(options: str) -> Mining:
    return Mining(text_format.Parse(options, pb.MultiBoxLossParameter()))


def test_the_number_of_negatives_is_counted_in_single_precision_as_in_caffe() -> None:
    match = np.array([0] * 5 + [UNMATCHED] * 20)
    _, negative = mining("neg_pos_ratio: 1.4").choose(np, np.arange(25.0), match, np.zeros(25), None)
    np.testing.assert_array_equal(np.nonzero(negative)[0], np.arange(18, 25))  # 5 * 1.4 is 7


def test_negatives_that_overlap_a_harder_one_are_passed_over() -> None:
    match = np.array([0, UNMATCHED, UNMATCHED, UNMATCHED])
    loss = np.array([9.0, 1, 3, 2])
    boxes = np.array([[0.0, 0.0, 0.2, 0.2], [0.5, 0.5, 1, 1], [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.4]])
    chooser = mining("neg_pos_ratio: 2 nms_param { nms_threshold: 0.5 }")
    assert chooser.suppresses
    _, negative = chooser.choose(np, loss, match, np.zeros(4), boxes)
    np.testing.assert_array_equal(negative, [False, True, True, False])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("do_neg_mining: false", "do_neg_mining contradicts"),
        ("share_location: false", "mining needs boxes that all classes share"),
        ("background_label_id: 3", "one of the classes of a softmax"),
        ("mining_type: HARD_EXAMPLE sample_size: 0", "sample_size must be"),
        ("map_object_to_agnostic: true background_label_id: 2", "knows two classes"),
    ],
)
def test_options_that_make_no_sense_are_named(options: str, message: str) -> None:
    with pytest.raises(NetcError, match=message):
        loss_of(options, *zeros())


@pytest.mark.parametrize("label", [0, 3, -2])
def test_a_label_that_is_no_object_is_named(label: int) -> None:
    truths = np.array(TRUTHS)
    truths[1, 1] = label
    with pytest.raises(NetcError, match=f"label {label} of a true box is not a class of objects"):
        loss_of("", *zeros(), truths=truths)


@pytest.mark.parametrize(
    ("shapes", "bottom"),
    [
        ([(1, 15), (1, 12), (1, 2, 16), (1, 1, 2, 8)], 0),
        ([(1, 16), (2, 12), (1, 2, 16), (1, 1, 2, 8)], 1),
        ([(1, 16), (1, 12), (1, 1, 16), (1, 1, 2, 8)], 2),
        ([(1, 16), (1, 12), (1, 2, 16), (1, 1, 2, 7)], 3),
    ],
)
def test_a_bottom_that_does_not_fit_is_named(shapes: list[tuple[int, ...]], bottom: int) -> None:
    layer = make_layer(f'type: "MultiBoxLoss" multibox_loss_param {{ num_classes: {CLASSES} }}', bottoms=4)
    with pytest.raises(NetcError, match=f"bottom {bottom} does not have the shape"):
        layer.infer(shapes)
