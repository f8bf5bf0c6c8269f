"""MultinomialLogisticLoss and InfogainLoss: by hand, H from a file, gradients, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netc.errors import NetcError
from netc.schema.blobs import array_to_blob
from tests.layer.one_layer import check_slopes, gradients, make_layer, run

RNG = np.random.default_rng(10)
SCORES = RNG.standard_normal((3, 4))
LABELS = [2, 0, 3]
WORTH = RNG.uniform(0, 1, (4, 4))
MULTINOMIAL = 'type: "MultinomialLogisticLoss"'
INFOGAIN = 'type: "InfogainLoss"'


def softmax(x: np.ndarray, axis: int = 1) -> np.ndarray:
    e = np.exp(x)
    return e / e.sum(axis=axis, keepdims=True)


def test_multinomial_by_hand() -> None:
    p = [[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]
    assert float(run(MULTINOMIAL, p, [1, 2])[0]) == pytest.approx(-np.log(0.25 * 0.8) / 2)
    dx = gradients(MULTINOMIAL, p, [1, 2], top_grads=[3])[0]
    np.testing.assert_allclose(dx, [[0, -3 / 2 / 0.25, 0], [0, 0, -3 / 2 / 0.8]], rtol=1e-6)


def test_multinomial_takes_no_probability_below_1e_minus_20() -> None:
    assert float(run(MULTINOMIAL, [[0, 1]], [0])[0]) == pytest.approx(-np.log(1e-20))
    assert gradients(MULTINOMIAL, [[0, 1]], [0], top_grads=[1])[0][0, 0] == pytest.approx(-1e20)


def test_multinomial_of_a_softmax_is_softmax_with_loss() -> None:
    loss = run(MULTINOMIAL, softmax(SCORES), LABELS, dtype=np.float64)[0]
    assert float(loss) == pytest.approx(float(run('type: "SoftmaxWithLoss"', SCORES, LABELS)[0]))
    check_slopes(MULTINOMIAL, softmax(SCORES), LABELS)


@pytest.mark.parametrize("shape", [(4, 4), (1, 1, 4, 4), (16,)])
def test_infogain_by_hand(shape: tuple[int, ...]) -> None:
    loss = run(INFOGAIN, SCORES, LABELS, WORTH.reshape(shape), dtype=np.float64)[0]
    expected = -sum(
        (WORTH[label] * np.log(p)).sum() for label, p in zip(LABELS, softmax(SCORES), strict=True)
    )
    assert float(loss) == pytest.approx(expected / 3)


def test_infogain_with_the_identity_is_softmax_with_loss() -> None:
    same, plain = (SCORES, LABELS, np.eye(4)), (SCORES, LABELS)
    loss = run(INFOGAIN, *same, dtype=np.float64)[0]
    assert float(loss) == pytest.approx(float(run('type: "SoftmaxWithLoss"', *plain, dtype=np.float64)[0]))
    np.testing.assert_allclose(
        gradients(INFOGAIN, *same, top_grads=[0.7], dtype=np.float64)[0],
        gradients('type: "SoftmaxWithLoss"', *plain, top_grads=[0.7], dtype=np.float64)[0],
        atol=1e-12,
    )


def test_infogain_reads_its_matrix_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "H.binaryproto"
    path.write_bytes(array_to_blob(WORTH.reshape(1, 1, 4, 4)).SerializeToString())
    text = f'{INFOGAIN} infogain_loss_param {{ source: "{path}" }}'
    assert float(run(text, SCORES, LABELS)[0]) == pytest.approx(
        float(run(INFOGAIN, SCORES, LABELS, WORTH)[0])
    )
    found = gradients(text, SCORES, LABELS, top_grads=[1])[0]
    np.testing.assert_allclose(found, gradients(INFOGAIN, SCORES, LABELS, WORTH, top_grads=[1])[0], rtol=1e-6)


def test_infogain_gives_its_probabilities_as_a_second_top() -> None:
    loss, p = run(f'{INFOGAIN} top: "loss" top: "p"', SCORES, LABELS, WORTH)
    assert loss.shape == ()
    np.testing.assert_allclose(p, softmax(SCORES), rtol=1e-5)
    dx = gradients(
        f'{INFOGAIN} top: "loss" top: "p"', SCORES, LABELS, WORTH, top_grads=[None, np.ones((3, 4))]
    )[0]
    assert not dx.any()


@pytest.mark.parametrize(("mode", "normalizer"), [("VALID", 3), ("FULL", 4), ("BATCH_SIZE", 2), ("NONE", 1)])
def test_infogain_counts_as_loss_param_says(mode: str, normalizer: int) -> None:
    scores, labels = RNG.standard_normal((2, 4, 2)), [[1, 3], [0, 1]]
    text = f"{INFOGAIN} loss_param {{ ignore_label: 3 normalization: {mode} }}"
    logs = np.log(softmax(scores))
    places = [(0, 0, 1), (1, 0, 0), (1, 1, 1)]
    expected = -sum((WORTH[label] * logs[n, :, i]).sum() for n, i, label in places) / normalizer
    assert float(run(text, scores, labels, WORTH)[0]) == pytest.approx(expected, rel=1e-5)
    check_slopes(text, scores, labels, WORTH)


def test_infogain_with_every_label_ignored_is_zero() -> None:
    text = f"{INFOGAIN} loss_param {{ ignore_label: 1 }}"
    assert float(run(text, SCORES, [1, 1, 1], WORTH)[0]) == 0
    assert not gradients(text, SCORES, [1, 1, 1], WORTH, top_grads=[1])[0].any()


def test_infogain_classes_along_another_axis() -> None:
    text = f"{INFOGAIN} infogain_loss_param {{ axis: -1 }}"
    scores = RNG.standard_normal((2, 3, 4))
    check_slopes(text, scores, RNG.integers(0, 4, (2, 3)), WORTH)


@pytest.mark.parametrize(("text", "more"), [(MULTINOMIAL, []), (INFOGAIN, [WORTH])])
def test_a_label_that_is_no_class_is_an_error(text: str, more: list[np.ndarray]) -> None:
    with pytest.raises(NetcError, match="label 4 is not a class"):
        run(text, SCORES, [0, 4, 1], *more)


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        (MULTINOMIAL, [(3, 4), (3, 2)], "one label for each row"),
        (INFOGAIN, [(3, 4), (3,), (3, 3)], "row and a column for each class"),
        (INFOGAIN, [(3, 4), (3, 2), (4, 4)], "number of labels"),
        (INFOGAIN, [(3, 4), (3,)], "matrix is missing"),
    ],
)
def test_refuses(text: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(NetcError, match=message):
        make_layer(text, len(shapes)).infer(shapes)


def test_infogain_names_a_file_that_is_not_there() -> None:
    layer = make_layer(f'{INFOGAIN} infogain_loss_param {{ source: "no/H.binaryproto" }}', bottoms=2)
    with pytest.raises(NetcError, match=r"H\.binaryproto"):
        layer.infer([(3, 4), (3,)])
