"""Accuracy and ArgMax: ties, top_k, axes, classes without labels, errors."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import OneLayer, make_layer, run

SCORES = [[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.3, 0.3, 0.4], [0.2, 0.5, 0.3]]


def test_accuracy_is_the_share_of_right_answers() -> None:
    (accuracy,) = run('type: "Accuracy"', SCORES, [1, 0, 0, 2])
    assert accuracy.shape == ()
    assert accuracy == 0.5


def test_a_tie_counts_against_you() -> None:
    assert run('type: "Accuracy"', [[0.5, 0.5], [0.4, 0.6]], [0, 1])[0] == 0.5
    assert run('type: "Accuracy"', [[0.5, 0.5], [0.4, 0.6]], [1, 1])[0] == 0.5


def test_top_k_counts_labels_among_the_best() -> None:
    assert run('type: "Accuracy" accuracy_param { top_k: 2 }', SCORES, [0, 1, 0, 2])[0] == 0.5
    assert run('type: "Accuracy" accuracy_param { top_k: 3 }', SCORES, [0, 1, 0, 2])[0] == 1


def test_accuracy_leaves_ignored_labels_out() -> None:
    text = 'type: "Accuracy" accuracy_param { ignore_label: 255 }'
    assert run(text, SCORES, [1, 255, 255, 2])[0] == 0.5
    assert run(text, SCORES, [255] * 4)[0] == 0


def test_the_second_top_is_the_accuracy_of_each_class() -> None:
    text = 'type: "Accuracy" top: "all" top: "each" accuracy_param { ignore_label: 2 }'
    total, each = run(text, [*SCORES, [9.0, 0.0, 0.0]], [1, 0, 1, 2, 0])
    assert total == 0.75
    np.testing.assert_array_equal(each, [1, 0.5, 0])


def test_accuracy_of_pixels_reads_any_axis() -> None:
    scores = np.random.default_rng(0).standard_normal((2, 5, 3, 4))
    labels = np.random.default_rng(1).integers(0, 5, (2, 3, 4))
    expected = (scores.argmax(axis=1) == labels).mean()
    assert run('type: "Accuracy"', scores, labels)[0] == pytest.approx(expected)
    last = np.moveaxis(scores, 1, -1)
    assert run('type: "Accuracy" accuracy_param { axis: -1 }', last, labels)[0] == pytest.approx(expected)


def test_accuracy_names_a_label_that_is_no_class() -> None:
    layer = OneLayer('type: "Accuracy" bottom: "fc" bottom: "label"', SCORES, [1, 0, 3, 2])
    with pytest.raises(NetcError, match="label 3 is not a class") as error:
        layer.forward()
    assert error.value.blob == "label"


def test_accuracy_refuses_what_does_not_fit() -> None:
    with pytest.raises(NetcError, match="number of labels must match"):
        make_layer('type: "Accuracy"', 2).infer([(4, 3), (4, 3)])
    with pytest.raises(NetcError, match="top_k is more"):
        make_layer('type: "Accuracy" accuracy_param { top_k: 4 }', 2).infer([(4, 3), (4,)])
    assert not make_layer('type: "Accuracy"', 2).gives_gradient(0)


def test_argmax_gives_the_higher_of_equal_indices_first() -> None:
    x = [[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 0.0, 5.0]]
    np.testing.assert_array_equal(run('type: "ArgMax"', x)[0], [[[2]], [[3]]])
    np.testing.assert_array_equal(
        run('type: "ArgMax" argmax_param { top_k: 3 }', x)[0], [[[2, 1, 3]], [[3, 1, 0]]]
    )


def test_argmax_gives_values_beside_indices() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 2, 2))
    (y,) = run('type: "ArgMax" argmax_param { top_k: 4 out_max_val: true }', x)
    assert y.shape == (2, 2, 4, 1)
    order = np.argsort(-x.reshape(2, -1), axis=1)[:, :4]
    np.testing.assert_array_equal(y[:, 0, :, 0], order)
    np.testing.assert_allclose(y[:, 1, :, 0], np.take_along_axis(x.reshape(2, -1), order, 1), rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_argmax_along_an_axis_shrinks_it(axis: int) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    (best,) = run(f'type: "ArgMax" argmax_param {{ axis: {axis} }}', x)
    np.testing.assert_array_equal(best, np.expand_dims(x.argmax(axis=axis), axis))
    (values,) = run(f'type: "ArgMax" argmax_param {{ axis: {axis} top_k: 2 out_max_val: true }}', x)
    expected = np.flip(np.sort(x, axis=axis), axis).take([0, 1], axis=axis)
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "choices"), [("top_k: 13", 12), ("top_k: 0", 12), ("top_k: 5 axis: 2", 4)]
)
def test_argmax_refuses_a_top_k_that_does_not_fit(options: str, choices: int) -> None:
    with pytest.raises(NetcError, match="top_k") as error:
        make_layer(f'type: "ArgMax" argmax_param {{ {options} }}').infer([(2, 3, 4)])
    assert error.value.expected == f"1 to {choices}"
