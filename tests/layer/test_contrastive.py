"""ContrastiveLoss: pairs by hand, both versions, gradients, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import check_slopes, gradients, make_layer, run

RNG = np.random.default_rng(9)
A, B = [[0, 0], [0, 0], [0, 0], [1, 1]], [[3, 4], [3, 4], [0.6, 0.8], [1, 1]]  # 5, 5, 1 and 0 apart


def contrastive(options: str = "") -> str:
    return f'type: "ContrastiveLoss" contrastive_loss_param {{ {options} }}'


@pytest.mark.parametrize(
    ("options", "alike", "sums"),
    [
        ("margin: 3", [1, 0, 0, 0], 25 + 0 + 4 + 9),
        ("margin: 3", [0, 2, 0.5, 1], 0 + 25 + 4 + 0),  # 0.5 is cut to 0
        ("margin: 3 legacy_version: true", [1, 0, 0, 0], 25 + 0 + 2 + 3),
        ("", [0, 0, 0, 0], 0 + 0 + 0 + 1),
    ],
)
def test_loss_by_hand(options: str, alike: list[float], sums: float) -> None:
    assert float(run(contrastive(options), A, B, alike)[0]) == pytest.approx(sums / 8)


def test_gradient_by_hand() -> None:
    da, db, _ = gradients(contrastive("margin: 3"), A, B, [1, 0, 0, 0], top_grads=[2])
    # Alike: a - b. Apart and within the margin: -(margin - d) / (d + 0.0001) (a - b). Times 2 / N.
    expected = 0.5 * np.array([[-3, -4], [0, 0], [1.2 / 1.0001, 1.6 / 1.0001], [0, 0]])
    np.testing.assert_allclose(da, expected, rtol=1e-6)
    np.testing.assert_allclose(db, -expected, rtol=1e-6)


def test_one_bottom_alone_may_want_a_gradient() -> None:
    both = gradients(contrastive("margin: 3"), A, B, [1, 0, 0, 1], top_grads=[1])
    layer = make_layer(contrastive(), bottoms=3)
    assert [layer.gives_gradient(i) for i in range(3)] == [True, True, False]
    assert both[2] is None


@pytest.mark.parametrize("shape", [(5, 3), (4, 2, 1, 1), (1, 7)])
def test_gradients_are_slopes(shape: tuple[int, ...]) -> None:
    alike = RNG.integers(0, 2, shape[0])
    a, b = RNG.standard_normal((2, *shape))
    check_slopes(contrastive("legacy_version: true margin: 20"), a, b, alike)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(4, 3), (4, 2), (4,)], "as many channels"),
        ([(4, 3), (5, 3), (4,)], "same first axis"),
        ([(4, 3, 2, 2), (4, 3, 2, 2), (4,)], "without height and width"),
        ([(4, 3), (4, 3), (4, 2)], "one number for each pair"),
    ],
)
def test_refuses(shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(NetcError, match=message):
        make_layer(contrastive(), bottoms=3).infer(shapes)
