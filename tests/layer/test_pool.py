"""Pooling: worked examples, windows at the edges as in Caffe, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layer import pool
from netc.proto import netc_pb2 as pb
from tests.layer.one_layer import OneLayer, check_slopes, gradients, make_layer, run

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(2)
FLT_MAX = np.finfo(np.float32).max


def pooling(options: str) -> str:
    return f'type: "Pooling" pooling_param {{ {options} }}'


def test_2x2_maxima_by_hand() -> None:
    image = [[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]]
    np.testing.assert_array_equal(
        run(pooling("kernel_size: 2 stride: 2"), [[image]])[0], [[[[6, 8], [3, 4]]]]
    )


@pytest.mark.parametrize(
    ("options", "size", "output"),
    [
        ("kernel_size: 3 stride: 2", 8, 4),
        ("kernel_size: 3 stride: 2 round_mode: FLOOR", 8, 3),
        ("kernel_size: 3 stride: 2", 32, 16),
        ("kernel_size: 2 stride: 2", 24, 12),
        ("kernel_size: 3 stride: 2 pad: 1", 6, 4),  # ceil(5 / 2) + 1
        ("kernel_size: 2 stride: 3 pad: 1", 9, 4),
        (
            "kernel_size: 2 stride: 2 pad: 1",
            5,
            3,
        ),  # 4, but the last would start behind the image and its padding
        ("kernel_size: 3", 5, 3),
        ("kernel_size: 3 stride: 2", 2, 1),  # the window hangs over by less than a stride
        ("global_pooling: true", 9, 1),
    ],
)
def test_pooling_rounds_up_like_caffe(options: str, size: int, output: int) -> None:
    assert make_layer(pooling(options)).infer([(2, 3, size, size)]) == [(2, 3, output, output)]


def by_definition(layer: Any, x: Array) -> tuple[Array, Array, Array]:
    """Maxima, their places and averages, one window at a time."""
    shape = (*x.shape[:2], *layer.output)
    most, place, mean = np.full(shape, -float(FLT_MAX)), np.full(shape, -1.0), np.zeros(shape)
    height, width = x.shape[2:]
    for n, c, p, q in np.ndindex(*shape):
        (stride_h, stride_w), (pad_h, pad_w) = layer.window.stride, layer.window.pad
        top, left = p * stride_h - pad_h, q * stride_w - pad_w
        bottom = min(top + layer.window.kernel[0], height + pad_h)
        right = min(left + layer.window.kernel[1], width + pad_w)
        cells = (bottom - top) * (right - left)
        for h in range(max(top, 0), min(bottom, height)):
            for w in range(max(left, 0), min(right, width)):
                value = x[n, c, h, w]
                mean[n, c, p, q] += value / cells
                if value > most[n, c, p, q]:
                    most[n, c, p, q], place[n, c, p, q] = value, h * width + w
    return most, place, mean


GEOMETRIES = {
    "2x2": ((2, 3, 6, 8), "kernel_size: 2 stride: 2"),
    "overlapping": ((2, 3, 7, 6), "kernel_size: 3 stride: 2"),
    "floor": ((2, 3, 8, 6), "kernel_size: 3 stride: 2 round_mode: FLOOR"),
    "padded": ((2, 3, 7, 6), "kernel_size: 3 stride: 2 pad: 1"),
    "much padding": ((2, 3, 5, 6), "kernel_size: 3 stride: 2 pad: 2"),
    "rectangle": ((2, 3, 7, 6), "kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0"),
    "stride over kernel": ((2, 3, 7, 10), "kernel_size: 2 stride: 3"),
    "stride over kernel, padded": ((2, 3, 9, 10), "kernel_size: 2 stride: 3 pad: 1"),
    "global": ((2, 3, 5, 4), "global_pooling: true"),
    "few large windows": ((2, 3, 9, 8), "kernel_size: 6 stride: 3 pad: 2"),
    "kernel over image": ((2, 3, 4, 5), "kernel_size: 5 stride: 2"),
    "more positions than a byte counts": ((2, 3, 15, 15), "kernel_size: 12 stride: 3"),
}


@pytest.fixture(params=[1, 1 << 17], ids=["plane by plane", "together"])
def planes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "PLANE_CELLS", request.param)


@pytest.mark.usefixtures("planes")
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_geometry_is_window_by_window(geometry: str) -> None:
    shape, options = GEOMETRIES[geometry]
    x = RNG.integers(-3, 4, shape).astype(float)  # many ties
    layer = make_layer(pooling(options))
    layer.infer([shape])
    most, place, mean = by_definition(layer, x)
    found = OneLayer(pooling(options) + ' top: "y" top: "places"', x, dtype=np.float64)
    np.testing.assert_array_equal(found.forward(), [most, place])
    dy, dx = RNG.standard_normal(most.shape), np.zeros(shape)
    for n, c, p, q in np.ndindex(*most.shape):
        dx[n, c].ravel()[int(place[n, c, p, q])] += dy[n, c, p, q]
    np.testing.assert_allclose(found.backward(dy, None)[0], dx, atol=1e-12)
    np.testing.assert_allclose(run(pooling(options + " pool: AVE"), x, dtype=np.float64)[0], mean, atol=1e-12)


@pytest.mark.parametrize("geometry", ["padded", "stride over kernel", "global", "few large windows"])
def test_slopes_of_averages(geometry: str) -> None:
    shape, options = GEOMETRIES[geometry]
    check_slopes(pooling(options + " pool: AVE"), RNG.standard_normal(shape))


def test_average_counts_the_padding() -> None:
    y = run(pooling("pool: AVE kernel_size: 2 stride: 2 pad: 1"), np.full((1, 1, 2, 2), 4.0))[0]
    np.testing.assert_array_equal(y, np.ones((1, 1, 2, 2)))


def test_average_does_not_count_what_lies_behind_the_padding() -> None:
    y = run(pooling("pool: AVE kernel_size: 2 stride: 2"), np.full((1, 1, 3, 3), 4.0))[0]
    np.testing.assert_array_equal(y, np.full((1, 1, 2, 2), 4.0))


def test_the_first_maximum_gets_the_gradient() -> None:
    (dx,) = gradients(pooling("kernel_size: 2 stride: 2"), np.zeros((1, 1, 2, 2)), top_grads=[[[[5]]]])
    np.testing.assert_array_equal(dx, [[[[5, 0], [0, 0]]]])


@pytest.mark.usefixtures("planes")
@pytest.mark.parametrize("options", ["kernel_size: 2 stride: 2", "global_pooling: true"])
def test_what_is_no_number_is_never_the_maximum(options: str) -> None:
    image = [[[[np.nan, -np.inf], [2, np.nan]]], [[[np.nan, -np.inf], [-np.inf, np.nan]]]]
    text = pooling(options) + ' top: "y" top: "places"'
    layer = OneLayer(text, image)
    y, places = layer.forward()
    np.testing.assert_array_equal(y.ravel(), np.float32([2, -FLT_MAX]))
    np.testing.assert_array_equal(places.ravel(), [2, -1])
    (dx,) = layer.backward(np.full((2, 1, 1, 1), 7), None)
    np.testing.assert_array_equal(dx, [[[[0, 0], [7, 0]]], [[[0, 0], [0, 0]]]])


def test_no_images_give_no_outputs() -> None:
    for options in ("kernel_size: 2 stride: 2", "pool: AVE kernel_size: 2", "pool: AVE global_pooling: true"):
        layer = OneLayer(pooling(options), np.ones((0, 2, 4, 4)))
        (top,) = layer.forward()
        assert top.size == 0
        assert layer.backward(top)[0].shape == (0, 2, 4, 4)  # type: ignore[union-attr]


def test_stochastic_pooling_draws_in_proportion() -> None:
    image = np.broadcast_to(np.array([[1.0, 0.0], [3.0, 4.0]]), (4000, 2, 2, 2))
    layer = OneLayer(pooling("pool: STOCHASTIC kernel_size: 2"), image)
    (y,) = layer.forward()
    shares = [float((y == value).mean()) for value in (0, 1, 3, 4)]
    np.testing.assert_allclose(shares, [0, 1 / 8, 3 / 8, 1 / 2], atol=0.03)
    (dx,) = layer.backward(np.ones(y.shape))
    np.testing.assert_array_equal((dx * image).sum(axis=(2, 3)), y[..., 0, 0])
    drawn = y.copy()
    assert not np.array_equal(layer.forward()[0], drawn)
    assert layer.buffers.states["draw"][0] == 2


def test_stochastic_pooling_expects_in_test() -> None:
    image = [[[[1, 0], [3, 4]]], [[[0, 0], [0, 0]]]]
    layer = OneLayer(pooling("pool: STOCHASTIC kernel_size: 2"), image, phase=pb.TEST)
    np.testing.assert_allclose(np.ravel(layer.forward()[0]), [26 / 8, 0])
    assert not layer.layer.gives_gradient(0)


@pytest.mark.parametrize(
    ("options", "shape", "said"),
    [
        ("", (1, 1, 4, 4), "kernel_size is missing"),
        ("kernel_size: 2", (1, 4, 4), r"needs \(N, C, H, W\)"),
        ("kernel_size: 0", (1, 1, 4, 4), "must have cells"),
        ("kernel_size: 2 stride: 0", (1, 1, 4, 4), "must move on"),
        ("kernel_size: 2 kernel_h: 2 kernel_w: 2", (1, 1, 4, 4), "kernel must be given once"),
        ("kernel_h: 2", (1, 1, 4, 4), "kernel must be given once"),
        ("kernel_size: 2 pad_w: 1", (1, 1, 4, 4), "pad must be given once"),
        ("kernel_size: 2 pad: 2", (1, 1, 4, 4), "nothing but padding"),
        ("kernel_size: 9 stride: 2", (1, 1, 4, 4), "larger than its padded input"),
        ("global_pooling: true kernel_size: 2", (1, 1, 4, 4), "whole image"),
        ("global_pooling: true stride: 2", (1, 1, 4, 4), "whole image"),
        ("pool: STOCHASTIC kernel_size: 3 pad: 1", (1, 1, 4, 4), "knows no padding"),
    ],
)
def test_refuses(options: str, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(NetcError, match=said):
        make_layer(pooling(options)).infer([shape])


def test_refuses_a_second_top_of_averages() -> None:
    with pytest.raises(NetcError, match="second top"):
        make_layer(pooling("pool: AVE kernel_size: 2") + ' top: "a" top: "b"').infer([(1, 1, 4, 4)])


@pytest.mark.parametrize(
    ("options", "size"),
    [("", 4), ("ceil_mode: true", 4), ("ceil_mode: false", 3), ("ceil_mode: false round_mode: FLOOR", 3)],
)
def test_ceil_mode_is_round_mode_by_another_name(options: str, size: int) -> None:
    layer = make_layer(f'type: "Pooling" pooling_param {{ kernel_size: 2 stride: 2 {options} }}')
    assert layer.infer([(1, 1, 7, 7)]) == [(1, 1, size, size)]


def test_ceil_mode_and_round_mode_may_not_contradict_each_other() -> None:
    text = 'type: "Pooling" pooling_param { kernel_size: 2 ceil_mode: true round_mode: FLOOR }'
    with pytest.raises(NetcError, match="contradict"):
        make_layer(text).infer([(1, 1, 7, 7)])
