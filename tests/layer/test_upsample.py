"""Upsample: values go back to where pooling found them."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import OneLayer, make_layer, run

SHAPE = (1, 1, 2, 2)
X = np.array([1.0, 2, 3, 4]).reshape(SHAPE)


def text(options: str) -> str:
    return f'type: "Upsample" upsample_param {{ {options} }}'


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", (4, 6)),
        ("scale: 3", (6, 9)),
        ("scale_h: 2 scale_w: 4", (4, 12)),
        ("scale: 2 pad_out_h: true", (3, 6)),
        ("pad_out_w: true", (4, 5)),
        ("upsample_h: 5 upsample_w: 7", (5, 7)),
    ],
)
def test_sizes(options: str, expected: tuple[int, int]) -> None:
    assert make_layer(text(options), bottoms=2).infer([(2, 3, 2, 3)] * 2) == [(2, 3, *expected)]


def test_it_undoes_a_pooling() -> None:
    x = np.random.default_rng(1).standard_normal((2, 3, 6, 8))
    pooled = run('type: "Pooling" top: "p" top: "m" pooling_param { kernel_size: 2 stride: 2 }', x)
    (y,) = run(text(""), *pooled)
    again = run('type: "Pooling" top: "p" top: "m" pooling_param { kernel_size: 2 stride: 2 }', np.abs(y))
    np.testing.assert_allclose(
        y.reshape(2, 3, -1).sum(axis=2), pooled[0].reshape(2, 3, -1).sum(axis=2), rtol=1e-6
    )
    np.testing.assert_array_equal(again[1], pooled[1])


def test_the_last_of_two_values_stays_and_both_get_the_gradient() -> None:
    layer = OneLayer(text(""), X, np.array([5, 5, 0, 15]).reshape(SHAPE))
    (y,) = layer.forward()
    assert (y[0, 0, 1, 1], y[0, 0, 0, 0], y.sum()) == (2, 3, 9)
    dx, dmask = layer.backward(np.arange(16).reshape(1, 1, 4, 4))
    assert dx.ravel().tolist() == [5, 5, 0, 15]
    assert not dmask.any()


@pytest.mark.parametrize("place", [16, -1])
def test_a_place_beyond_the_output_is_an_error(place: int) -> None:
    with pytest.raises(NetcError, match="a place that the output does not have") as error:
        run(text(""), X, np.array([0, 1, 2, place]).reshape(SHAPE))
    assert "upsample_h" in error.value.remedy


@pytest.mark.parametrize(
    ("options", "shapes", "message"),
    [
        ("upsample_h: 4", [SHAPE, SHAPE], "not clear"),
        ("scale_h: 4", [SHAPE, SHAPE], "not clear"),
        ("scale: 2 scale_h: 4 scale_w: 3", [SHAPE, SHAPE], "not clear"),
        ("scale: 3 pad_out_h: true", [SHAPE, SHAPE], "for a scale of 2"),
        ("upsample_h: 1 upsample_w: 4", [SHAPE, SHAPE], "at least 2"),
        ("", [SHAPE, (1, 1, 2, 3)], "shape of the values"),
        ("", [(2, 2), (2, 2)], "needs"),
    ],
)
def test_what_makes_no_sense_is_refused(options: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(NetcError, match=message):
        make_layer(text(options), bottoms=2).infer(shapes)
