"""Boxes: overlaps, codes, matching with true boxes, suppression of those that overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.data.boxes import areas, clip, coverages, overlaps, project
from netc.layer.box_choice import BLOCK, IGNORED, UNMATCHED, best_first, match_boxes, suppress_overlapping
from netc.layer.box_codes import CENTER_SIZE, CORNER, CORNER_SIZE, decode, encode

RANDOM = np.random.default_rng(11)


def random_boxes(count: int) -> Any:
    corner = RANDOM.random((count, 2)) * 0.7
    return np.concatenate([corner, corner + 0.05 + RANDOM.random((count, 2)) * 0.4], axis=1)


def test_overlap_is_intersection_over_union() -> None:
    first = np.array([[0.0, 0.0, 0.4, 0.4]])
    second = np.array([[0.2, 0.2, 0.6, 0.6], [0.0, 0.0, 0.4, 0.4], [0.4, 0.0, 0.8, 0.4], [0.9, 0.9, 1, 1]])
    np.testing.assert_allclose(overlaps(np, first, second), [[0.04 / 0.28, 1, 0, 0]])


def test_pixels_belong_to_the_boxes_whose_corners_they_are() -> None:
    boxes = np.array([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 4.0]])
    np.testing.assert_allclose(areas(np, boxes, border=1), [100, 50])
    np.testing.assert_allclose(overlaps(np, boxes[:1], boxes[1:], border=1), [[0.5]])


def test_a_box_turned_inside_out_has_no_area() -> None:
    boxes = np.array([[0.5, 0.1, 0.2, 0.9], [0.1, 0.1, 0.1, 0.4]])
    np.testing.assert_array_equal(areas(np, boxes), [0, 0])
    np.testing.assert_array_equal(overlaps(np, boxes, np.array([[0.0, 0, 1, 1]])), [[0], [0]])


def test_coverage_is_a_share_of_the_covered_box() -> None:
    covered, by = np.array([[0.0, 0.0, 0.2, 0.4]]), np.array([[0.1, 0.0, 1.0, 1.0]])
    np.testing.assert_allclose(coverages(np, covered, by), [[0.5]])
    np.testing.assert_allclose(coverages(np, by, covered), [[0.04 / 0.9]])


def test_a_projected_box_is_clipped_and_left_out_where_nothing_is_in_it() -> None:
    boxes = np.array([[0.3, 0.3, 0.5, 0.5], [0.0, 0.0, 0.25, 1.0], [0.5, 0.5, 0.9, 0.9]])
    projected, inside = project(np, boxes, np.array([0.25, 0.25, 0.75, 0.75]))
    np.testing.assert_array_equal(inside, [True, False, True])
    np.testing.assert_allclose(projected[[0, 2]], [[0.1, 0.1, 0.5, 0.5], [0.5, 0.5, 1, 1]])
    np.testing.assert_array_equal(clip(np, np.array([-1.0, 0.5, 2.0, 1.0])), [0, 0.5, 1, 1])


@pytest.mark.parametrize("code", [CORNER, CENTER_SIZE, CORNER_SIZE])
@pytest.mark.parametrize("in_target", [False, True])
def test_decoding_undoes_encoding(code: int, in_target: bool) -> None:
    boxes, priors = random_boxes(20), random_boxes(20)
    variances = None if in_target else RANDOM.uniform(0.05, 0.3, (20, 4))
    offsets = encode(np, code, boxes, priors, variances)
    np.testing.assert_allclose(decode(np, code, offsets, priors, variances), boxes, rtol=1e-10)


def test_codes_of_a_worked_example() -> None:
    prior, box = np.array([[0.2, 0.2, 0.6, 0.4]]), np.array([[0.3, 0.1, 0.5, 0.5]])
    variance = np.array([[0.1, 0.1, 0.2, 0.2]])
    corner = encode(np, CORNER, box, prior, variance)
    np.testing.assert_allclose(corner, [[1, -1, -0.5, 0.5]])
    np.testing.assert_allclose(encode(np, CORNER_SIZE, box, prior, None), [[0.25, -0.5, -0.25, 0.5]])
    center = encode(np, CENTER_SIZE, box, prior, variance)
    np.testing.assert_allclose(center, [[0, 0, np.log(0.5) / 0.2, np.log(2) / 0.2]], atol=1e-12)


TRUTHS = np.array([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])


def test_every_true_box_takes_the_box_it_overlaps_most_however_little() -> None:
    boxes = np.array([[0.0, 0.0, 0.1, 0.1], [0.0, 0.0, 0.2, 0.2], [0.55, 0.5, 1.0, 1.0]])
    index, best = match_boxes(np, boxes, TRUTHS, threshold=None)
    np.testing.assert_array_equal(index, [UNMATCHED, 0, 1])
    np.testing.assert_allclose(best, [0.04, 0.16, 0.9])


def test_a_box_wanted_by_two_true_boxes_goes_to_the_nearer_one() -> None:
    boxes = np.array([[0.2, 0.2, 0.8, 0.8], [0.0, 0.0, 0.3, 0.3]])
    truths = np.array([[0.2, 0.2, 0.7, 0.7], [0.2, 0.2, 0.8, 0.8]])
    index, _ = match_boxes(np, boxes, truths, threshold=None)
    np.testing.assert_array_equal(index, [1, 0])


def test_with_a_threshold_several_boxes_match_one_true_box() -> None:
    boxes = np.array([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.45], [0.0, 0.0, 0.5, 0.2], [0.6, 0.6, 1, 1]])
    index, _ = match_boxes(np, boxes, TRUTHS, threshold=0.5)
    np.testing.assert_array_equal(index, [0, 0, UNMATCHED, 1])
    exact = np.array([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.25]])
    np.testing.assert_array_equal(match_boxes(np, exact, TRUTHS, threshold=0.5)[0], [0, 0])


def test_boxes_that_reach_out_of_the_image_can_be_left_out() -> None:
    boxes = np.array([[-0.01, 0.0, 0.5, 0.5], [0.0, 0.0, 0.3, 0.3]])
    index, best = match_boxes(np, boxes, TRUTHS[:1], 0.5, leave_out_crossing=True)
    np.testing.assert_array_equal(index, [IGNORED, 0])
    np.testing.assert_allclose(best, [0, 0.36])


def test_without_true_boxes_nothing_matches() -> None:
    index, best = match_boxes(np, TRUTHS, np.zeros((0, 4)), 0.5)
    np.testing.assert_array_equal(index, [UNMATCHED, UNMATCHED])
    np.testing.assert_array_equal(best, [0, 0])


def test_the_best_scores_come_first_and_equal_ones_in_their_order() -> None:
    scores = np.array([0.5, 0.9, 0.5, 0.1, 0.9])
    np.testing.assert_array_equal(best_first(np, scores), [1, 4, 0, 2, 3])
    np.testing.assert_array_equal(best_first(np, scores, 3), [1, 4, 0])
    assert len(best_first(np, scores, 0)) == 0


def suppressed_one_by_one(boxes: Any, threshold: float, eta: float) -> list[int]:
    """Each box held against all that were kept before it."""
    kept: list[int] = []
    for i in range(len(boxes)):
        if all(overlaps(np, boxes[i : i + 1], boxes[k : k + 1])[0, 0] <= threshold for k in kept):
            kept.append(i)
            if eta < 1 and threshold > 0.5:
                threshold *= eta
    return kept


@pytest.mark.parametrize(("threshold", "eta"), [(0.3, 1), (0.0, 1), (0.9, 0.8), (0.6, 0.5), (0.4, 0.5)])
def test_suppression_keeps_what_overlaps_no_kept_box(threshold: float, eta: float) -> None:
    for count in (0, 1, 2, 40, BLOCK + 44):
        boxes = random_boxes(count)
        assert suppress_overlapping(np, boxes, threshold, eta) == suppressed_one_by_one(boxes, threshold, eta)


def test_a_box_that_overlaps_by_just_the_threshold_stays() -> None:
    boxes = np.array([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 1.0]])
    assert suppress_overlapping(np, boxes, 0.5) == [0, 1]
    assert suppress_overlapping(np, boxes, 0.49) == [0]
