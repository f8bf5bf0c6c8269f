"""PriorBox: which boxes a cell gets, and what does not fit together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import make_layer, run


def priors(options: str, cells: tuple[int, int] = (1, 1), image: tuple[int, int] = (100, 100)) -> Any:
    """Corners (boxes, 4) and variances (boxes, 4)."""
    text = f'type: "PriorBox" prior_box_param {{ {options} }}'
    (top,) = run(text, np.zeros((1, 2, *cells)), np.zeros((1, 3, *image)))
    return top.reshape(2, -1, 4)


def test_a_cell_gets_the_small_square_the_large_one_and_the_ratios() -> None:
    boxes, _ = priors("min_size: 16 max_size: 36 aspect_ratio: 4")
    sizes = boxes[:, 2:] - boxes[:, :2]
    np.testing.assert_allclose(sizes, [[0.16, 0.16], [0.24, 0.24], [0.32, 0.08], [0.08, 0.32]], rtol=1e-5)
    np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:], 1, rtol=1e-5)


def test_a_ratio_that_is_there_already_is_left_out() -> None:
    boxes, _ = priors("min_size: 10 aspect_ratio: 1 aspect_ratio: 2 aspect_ratio: 0.5 aspect_ratio: 2")
    assert len(boxes) == 3
    assert len(priors("min_size: 10 aspect_ratio: 2 flip: false")[0]) == 2


def test_cells_run_along_rows_and_boxes_within_cells() -> None:
    boxes, _ = priors("min_size: 10 aspect_ratio: 2", cells=(2, 3), image=(20, 60))
    centers = ((boxes[:, :2] + boxes[:, 2:]) / 2).reshape(2, 3, 3, 2)
    np.testing.assert_allclose(centers[0, :, 0, 0], [1 / 6, 3 / 6, 5 / 6], rtol=1e-5)
    np.testing.assert_allclose(centers[:, 0, 2, 1], [0.25, 0.75], rtol=1e-5)


def test_step_and_offset_place_the_cells() -> None:
    boxes, _ = priors("min_size: 2 step: 8 offset: 0.25 img_size: 64", cells=(1, 2), image=(1, 1))
    np.testing.assert_allclose((boxes[:, 0] + boxes[:, 2]) / 2, [2 / 64, 10 / 64], rtol=1e-5)
    boxes, _ = priors("min_size: 2 step_h: 4 step_w: 8 img_h: 32 img_w: 64", cells=(2, 1))
    np.testing.assert_allclose((boxes[:, 1] + boxes[:, 3]) / 2, [2 / 32, 6 / 32], rtol=1e-5)


def test_clip_keeps_boxes_in_the_image() -> None:
    assert priors("min_size: 150")[0].min() < 0
    boxes, _ = priors("min_size: 150 clip: true")
    np.testing.assert_array_equal(boxes, [[0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", [0.1] * 4),
        ("variance: 0.3", [0.3] * 4),
        ("variance: 0.1 variance: 0.2 variance: 0.3 variance: 0.4", [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_variances_are_one_for_all_or_four(options: str, expected: list[float]) -> None:
    _, variances = priors(f"min_size: 10 aspect_ratio: 2 {options}")
    np.testing.assert_allclose(variances, [expected] * 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "min_size is not set"),
        ("min_size: 0", "min_size must be above 0"),
        ("min_size: 5 max_size: 4", "larger than its min_size"),
        ("min_size: 5 min_size: 6 max_size: 9", "as many max_size"),
        ("min_size: 5 aspect_ratio: -1", "aspect_ratio must be above 0"),
        ("min_size: 5 variance: 0.1 variance: 0.2", "variance is one number"),
        ("min_size: 5 img_size: 10 img_h: 10", "cannot both be set"),
        ("min_size: 5 step: 4 step_w: 4", "cannot both be set"),
        ("min_size: 5 step: 0", "step must be above 0"),
    ],
)
def test_options_that_make_no_sense_are_named(options: str, message: str) -> None:
    with pytest.raises(NetcError, match=message):
        priors(options)


def test_a_bottom_that_is_no_map_is_named() -> None:
    layer = make_layer('type: "PriorBox" bottom: "a" bottom: "b" prior_box_param { min_size: 5 }')
    with pytest.raises(NetcError, match="needs maps"):
        layer.infer([(1, 2, 3), (1, 3, 9, 9)])
