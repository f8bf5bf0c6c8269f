"""SegAccuracy: pixel accuracy, mean recall, mean overlap."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import OneLayer, make_layer, run


def scores(predicted: list[list[int]], classes: int) -> np.ndarray:
    """Scores (1, C, H, W) whose best classes are these."""
    return (np.array(predicted)[None, None] == np.arange(classes)[:, None, None]).astype(float)


def labels(values: list[list[int]]) -> np.ndarray:
    return np.array(values, float)[None, None]


def seg(options: str = "") -> str:
    return f'type: "SegAccuracy" seg_accuracy_param {{ {options} }}'


def test_the_three_numbers_of_a_small_map() -> None:
    # Labels 0 0 0 1 1 2, predicted 0 0 1 1 1 1.
    (acc,) = run(seg(), scores([[0, 0, 1], [1, 1, 1]], 3), labels([[0, 0, 0], [1, 1, 2]]))
    assert acc.shape == (1, 1, 1, 3)
    np.testing.assert_allclose(acc.ravel(), [4 / 6, (2 / 3 + 1 + 0) / 3, (2 / 3 + 2 / 4 + 0) / 3], rtol=1e-6)


def test_absent_classes_count_as_overlap_and_not_as_recall() -> None:
    (acc,) = run(seg(), scores([[0, 0]], 4), labels([[0, 0]]))
    assert acc.ravel().tolist() == [1, 1, 1]
    (acc,) = run(seg(), scores([[0, 3]], 4), labels([[0, 0]]))
    assert acc.ravel().tolist() == [0.5, 0.5, (0.5 + 1 + 1 + 0) / 4]


def test_the_higher_of_two_equal_classes_wins() -> None:
    (acc,) = run(seg(), np.ones((1, 3, 1, 1)), labels([[2]]))
    assert acc.ravel()[0] == 1


def test_several_labels_can_be_ignored() -> None:
    (acc,) = run(seg("ignore_label: 255 ignore_label: 1"), scores([[0, 0, 0]], 2), labels([[0, 255, 1]]))
    assert acc.ravel()[0] == 1


def test_counts_go_on_where_reset_is_false() -> None:
    for options, expected in (("reset: false", 0.75), ("", 0.5)):
        layer = OneLayer(seg(options), scores([[0, 1]], 2), labels([[0, 1]]))
        assert layer.forward()[0].ravel()[0] == 1
        layer.buffers.bottoms[1][...] = labels([[1, 1]])
        assert layer.forward()[0].ravel()[0] == expected


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_is_no_class_is_named(label: int) -> None:
    with pytest.raises(NetcError, match=f"label {label} is not a class") as error:
        run(seg("ignore_label: 255"), scores([[0, 0]], 2), labels([[0, label]]))
    assert "255" in error.value.expected


@pytest.mark.parametrize(
    "shapes", [[(2, 3), (2,)], [(2, 3, 4, 4), (2, 1, 4, 5)], [(2, 3, 4, 4), (2, 2, 4, 4)]]
)
def test_shapes_that_do_not_fit_are_refused(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(NetcError, match=r"needs scores|every pixel"):
        make_layer(seg(), bottoms=2).infer(shapes)
