"""L1Loss, and the two layers that are called SmoothL1Loss."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import OneLayer, check_slopes, gradients, make_layer, run

RNG = np.random.default_rng(11)
A, B = np.array([[0.0, 3.0], [-0.5, 2.0]]), np.array([[0.25, 1.0], [0.5, 2.0]])  # A - B: -1/4, 2; -1, 0


def test_l1_loss_is_the_sum_of_the_distances_per_row() -> None:
    (loss,) = run('type: "L1Loss"', A, B)
    assert loss == (0.25 + 2 + 1 + 0) / 2
    da, db = gradients('type: "L1Loss"', A, B, top_grads=[2.0])
    assert da.tolist() == [[-1, 1], [-1, 0]]
    assert db.tolist() == [[1, -1], [1, 0]]


def test_ssds_smooth_l1_is_square_below_one() -> None:
    (loss,) = run('type: "SmoothL1Loss"', A, B)
    assert loss == (0.25**2 / 2 + 1.5 + 0.5 + 0) / 2
    da, _ = gradients('type: "SmoothL1Loss"', A, B, top_grads=[2.0])
    assert da.tolist() == [[-0.25, 1], [-1, 0]]


def test_the_weights_of_ssds_smooth_l1_are_left_out_of_the_gradient() -> None:
    weights = np.array([[2.0, 0.0], [0.1, 1.0]])
    (loss,) = run('type: "SmoothL1Loss"', A, B, weights, dtype=np.float64)
    assert loss == pytest.approx((0.5**2 / 2 + 0.1**2 / 2) / 2)
    da, _, dw = gradients('type: "SmoothL1Loss"', A, B, weights, top_grads=[2.0], dtype=np.float64)
    np.testing.assert_allclose(da, [[-0.5, 0], [-0.1, 0]])
    assert not dw.any()


def test_fast_rcnns_smooth_l1_bends_at_one_over_sigma_squared() -> None:
    text = 'type: "SmoothL1Loss" loss_weight: 1 smooth_l1_loss_param { sigma: 2 }'
    (loss,) = run(text, A, B)
    assert loss == ((0.25 - 0.125) + (2 - 0.125) + (1 - 0.125) + 0) / 2
    near = B + np.array([[0.125, 0], [0, 0]])
    assert run(text, near, B)[0] == 4 * 0.125**2 / 2 / 2
    check_slopes(text, RNG.standard_normal((3, 4)), RNG.standard_normal((3, 4)))


def test_both_weights_of_fast_rcnns_smooth_l1_multiply_the_gradient() -> None:
    inside, outside = np.array([[2.0, 0.0], [0.1, 1.0]]), np.array([[3.0, 3.0], [5.0, 7.0]])
    bottoms = (A, B, inside, outside)
    (loss,) = run('type: "SmoothL1Loss" loss_weight: 1', *bottoms, dtype=np.float64)
    assert loss == pytest.approx((3 * 0.5**2 / 2 + 5 * 0.1**2 / 2) / 2)
    da, db, dw, dv = gradients(
        'type: "SmoothL1Loss" loss_weight: 1', *bottoms, top_grads=[2.0], dtype=np.float64
    )
    np.testing.assert_allclose(da, [[-0.5 * 2 * 3, 0], [-0.1 * 0.1 * 5, 0]])
    np.testing.assert_array_equal(db, -da)
    assert not dw.any()
    assert not dv.any()


@pytest.mark.parametrize(
    ("text", "bottoms", "counts"),
    [
        ('type: "SmoothL1Loss"', 2, True),
        ('type: "SmoothL1Loss"', 3, True),
        ('type: "SmoothL1Loss"', 4, False),
        ('type: "SmoothL1Loss" smooth_l1_loss_param { }', 2, False),
    ],
)
def test_the_two_layers_are_told_apart_by_what_is_given(text: str, bottoms: int, counts: bool) -> None:
    assert make_layer(text, bottoms=bottoms).is_loss is counts


def test_a_loss_that_does_not_count_says_so(caplog: pytest.LogCaptureFixture) -> None:
    make_layer('type: "SmoothL1Loss"', bottoms=4).infer([(2, 3)] * 4)
    assert "add `loss_weight: 1`" in caplog.text


def test_inside_weights_alone_are_refused() -> None:
    with pytest.raises(NetcError, match="inside weights need outside weights"):
        make_layer('type: "SmoothL1Loss" smooth_l1_loss_param { }', bottoms=3).infer([(2, 3)] * 3)


def test_other_counts_are_refused() -> None:
    with pytest.raises(NetcError, match="as many elements") as error:
        make_layer('type: "SmoothL1Loss"', bottoms=3).infer([(2, 3), (2, 3), (2, 4)])
    assert error.value.blob == "x2"


def test_an_earlier_forward_does_not_show() -> None:
    layer = OneLayer('type: "SmoothL1Loss"', A, B, np.full((2, 2), 0.5))
    assert [float(layer.forward()[0]) for _ in range(3)] == [pytest.approx((0.125**2 / 2 + 0.625) / 2)] * 3


@pytest.mark.parametrize("kind", ["L1Loss", "SmoothL1Loss"])
def test_no_rows_have_no_loss(kind: str) -> None:
    assert run(f'type: "{kind}"', np.zeros((0, 3)), np.zeros((0, 3)))[0] == 0
