"""Deconvolution: worked examples, every geometry against the defining sum, and what it refuses."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layer import lowering
from netc.layer.filler import fill
from tests.layer.one_layer import OneLayer, check_slopes, gradients, make_layer, run

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(1)


def deconv(options: str) -> str:
    return f'type: "Deconvolution" convolution_param {{ {options} }}'


@pytest.mark.parametrize(
    ("size", "kernel", "pad", "stride", "output"),
    [(16, 64, 0, 32, 544), (34, 4, 0, 2, 70), (7, 4, 1, 2, 14), (1, 3, 0, 1, 3), (1, 3, 1, 5, 1)],
)
def test_output_size(size: int, kernel: int, pad: int, stride: int, output: int) -> None:
    layer = make_layer(deconv(f"num_output: 10 kernel_size: {kernel} pad: {pad} stride: {stride}"))
    assert layer.infer([(2, 3, size, size)]) == [(2, 10, output, output)]


def test_filters_are_by_input_channel() -> None:
    layer = make_layer(deconv("num_output: 6 group: 2 kernel_h: 2 kernel_w: 5"))
    assert layer.infer([(1, 4, 3, 3)]) == [(1, 6, 4, 7)]
    assert [param.shape for param in layer.params] == [(4, 3, 2, 5), (6,)]


def test_each_cell_stamps_the_filter_by_hand() -> None:
    text = deconv("num_output: 1 kernel_size: 2 stride: 2")
    y = run(text, [[[[1, 2], [0, 3]]]], params=[[[[[1, 10], [100, 1000]]]], [0.5]])[0]
    expected = [[1, 10, 2, 20], [100, 1000, 200, 2000], [0, 0, 3, 30], [0, 0, 300, 3000]]
    np.testing.assert_array_equal(y, [[np.array(expected) + 0.5]])


def test_stamps_that_meet_add_up_and_padding_cuts_the_edge() -> None:
    text = deconv("num_output: 1 kernel_size: 3 pad: 1 bias_term: false")
    y = run(text, [[[1, 1, 1]]], params=[[[[1, 2, 3]]]])[0]
    np.testing.assert_array_equal(y, [[[3, 6, 5]]])  # of 1 3 6 5 3


def test_bilinear_filter_enlarges_an_even_ramp_evenly() -> None:
    text = deconv("num_output: 2 group: 2 kernel_size: 4 stride: 2 pad: 1 bias_term: false")
    layer = make_layer(deconv('weight_filler { type: "bilinear" } num_output: 2 group: 2 kernel_size: 4'))
    layer.infer([(1, 2, 3, 5)])
    weight = fill(layer.params[0].filler, layer.params[0].shape, np.random.default_rng(), np.float32)
    ramp = np.broadcast_to(np.arange(5), (1, 2, 3, 5))
    y = run(text, ramp, params=[weight])[0]
    assert y.shape == (1, 2, 6, 10)
    np.testing.assert_allclose(y[0, :, 2, 1:-1], [np.arange(0.25, 4, 0.5)] * 2, rtol=1e-6)


GEOMETRIES = {
    "plain": ((3, 4, 5, 6), "num_output: 6 kernel_size: 3"),
    "rectangle": (
        (2, 3, 4, 5),
        "num_output: 2 kernel_h: 2 kernel_w: 5 stride_h: 3 stride_w: 1 pad_h: 0 pad_w: 2",
    ),
    "groups": ((2, 4, 3, 5), "num_output: 6 kernel_size: 3 group: 2 stride: 2 pad: 1"),
    "depthwise": ((2, 5, 3, 4), "num_output: 5 kernel_size: 4 group: 5 stride: 2 pad: 1"),
    "dilation": ((2, 2, 3, 4), "num_output: 3 kernel_size: 3 dilation: 2 stride: 2 pad: 1"),
    "stride beyond the kernel": ((2, 2, 3, 3), "num_output: 2 kernel_size: 2 stride: 4"),
    "1x1": ((2, 4, 9, 8), "num_output: 3 kernel_size: 1"),
    "1-D": ((3, 2, 7), "num_output: 4 kernel_size: 3 stride: 2 pad: 1"),
    "3-D": ((2, 2, 2, 3, 2), "num_output: 2 kernel_size: 2 stride: 2 stride: 1 stride: 3"),
    "no spatial axes": ((3, 4), "num_output: 2"),
    "later axis": ((2, 3, 2, 4, 3), "num_output: 2 kernel_size: 2 axis: 2"),
    "no images": ((0, 2, 3, 3), "num_output: 2 kernel_size: 3"),
    "one cell": ((1, 1, 1, 1), "num_output: 1 kernel_size: 5 pad: 2"),
}


def by_definition(layer: Any, x: Array, weight: Array, bias: Array) -> Array:
    """The sum that Deconvolution's docstring states, one stamp at a time."""
    axis, window, group = layer.axis, layer.window, layer.options.group
    y = np.zeros(layer.top_shapes[0])
    images = x.reshape(-1, *x.shape[axis:])
    planes = y.reshape(len(images), *y.shape[axis:])
    channels, outputs = images.shape[1], planes.shape[1]
    for n, c, k in product(range(len(images)), range(channels), range(outputs // group)):
        plane = planes[n, c // (channels // group) * (outputs // group) + k, ...]
        for cell in np.ndindex(images.shape[2:]):
            for tap in np.ndindex(window.kernel):
                place = tuple(
                    p * s + r * d - pad
                    for p, s, r, d, pad in zip(
                        cell, window.stride, tap, window.dilation, window.pad, strict=True
                    )
                )
                if all(0 <= i < size for i, size in zip(place, plane.shape, strict=True)):
                    plane[place] += weight[(c, k, *tap)] * images[(n, c, *cell)]
    return y + bias.reshape(-1, *[1] * len(window.kernel))


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("chunk_bytes", [lowering.CHUNK_BYTES, 1])
def test_agrees_with_the_defining_sum(
    geometry: str, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lowering, "CHUNK_BYTES", chunk_bytes)
    shape, options = GEOMETRIES[geometry]
    layer = make_layer(deconv(options))
    layer.top_shapes = layer.infer([shape])
    params = [RNG.standard_normal(param.shape) for param in layer.params]
    x = RNG.standard_normal(shape)
    y = run(deconv(options), x, params=params, dtype=np.float64)[0]
    np.testing.assert_allclose(y, by_definition(layer, x, *params), atol=1e-12)


@pytest.mark.parametrize("geometry", [name for name in GEOMETRIES if name != "no images"])
def test_gradients_are_slopes(geometry: str) -> None:
    shape, options = GEOMETRIES[geometry]
    layer = make_layer(deconv(options))
    layer.infer([shape])
    params = [RNG.standard_normal(param.shape) for param in layer.params]
    check_slopes(deconv(options), RNG.standard_normal(shape), params=params)


def test_several_bottoms_share_the_filters() -> None:
    text = deconv("num_output: 2 kernel_size: 3")
    x, other = RNG.standard_normal((2, 1, 2, 3, 3))
    params = [RNG.standard_normal((2, 2, 3, 3)), RNG.standard_normal(2)]
    both = OneLayer(text + ' top: "y" top: "z"', x, other, params=params)
    assert len(both.forward()) == 2
    np.testing.assert_array_equal(both.buffers.tops[1], run(text, other, params=params)[0])
    dy = np.ones((1, 2, 5, 5))
    grads = both.backward(None, dy)
    assert not grads[0].any()
    np.testing.assert_allclose(grads[1], gradients(text, other, params=params, top_grads=[dy])[0])
    one = OneLayer(text, other, params=params)
    one.forward()
    one.backward(dy)
    for mine, its in zip(both.param_grads, one.param_grads, strict=True):
        np.testing.assert_allclose(mine, its)


def test_unwanted_gradients_are_not_computed() -> None:
    layer = OneLayer(
        deconv("num_output: 1 kernel_size: 2"), np.ones((1, 1, 2, 2)), params=[np.ones((1, 1, 2, 2)), [0]]
    )
    layer.forward()
    layer.buffers.param_grads = [None, None]
    assert layer.backward(np.ones((1, 1, 3, 3)), wanted=[False]) == [None]


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ("num_output: 2 kernel_size: 3 pad: 4", (1, 2, 3, 3), "padding takes away the whole output"),
        ("num_output: 3 group: 2 kernel_size: 3", (1, 4, 3, 3), "cannot be split into 2 equal groups"),
        ("num_output: 4 group: 2 kernel_size: 3", (1, 3, 3, 3), "cannot be split into 2 equal groups"),
        ("kernel_size: 3", (1, 2, 3, 3), "num_output"),
        ("num_output: 2", (1, 2, 3, 3), "kernel_size is missing"),
    ],
)
def test_refuses(options: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(NetcError, match=message):
        make_layer(deconv(options)).infer([shape])
