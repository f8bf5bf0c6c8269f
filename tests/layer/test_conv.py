"""Convolution: worked examples, every geometry against the defining sum, and what it refuses."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layer import lowering
from tests.layer.one_layer import OneLayer, check_slopes, gradients, make_layer, run

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(1)


def conv(options: str) -> str:
    return f'type: "Convolution" convolution_param {{ {options} }}'


@pytest.mark.parametrize(
    ("size", "kernel", "pad", "stride", "output"),
    [
        (32, 5, 2, 1, 32),
        (7, 3, 0, 1, 5),
        (7, 3, 0, 2, 3),
        (227, 11, 0, 4, 55),
        (8, 3, 0, 2, 3),
        (5, 5, 0, 1, 1),
    ],
)
def test_output_size(size: int, kernel: int, pad: int, stride: int, output: int) -> None:
    layer = make_layer(conv(f"num_output: 10 kernel_size: {kernel} pad: {pad} stride: {stride}"))
    assert layer.infer([(2, 3, size, size)]) == [(2, 10, output, output)]


def test_ten_5x5_filters_on_three_channels_have_760_parameters() -> None:
    layer = make_layer(conv("num_output: 10 kernel_size: 5 pad: 2"))
    assert layer.infer([(1, 3, 32, 32)]) == [(1, 10, 32, 32)]
    assert [param.shape for param in layer.params] == [(10, 3, 5, 5), (10,)]
    assert sum(int(np.prod(param.shape)) for param in layer.params) == 760


IMAGE = [[3, 2, 0, 1], [0, 2, 1, 2], [2, 0, 0, 3], [2, 3, 1, 2]]
FILTER = [[2, 1, 2], [0, 0, 3], [0, 0, 2]]


@pytest.mark.parametrize(
    ("pad", "expected"),
    [
        (0, [[11, 18], [6, 22]]),
        (1, [[10, 2, 7, 0], [13, 11, 18, 1], [10, 6, 22, 4], [11, 7, 12, 3]]),
    ],
)
def test_cross_correlation_by_hand(pad: int, expected: list[list[int]]) -> None:
    text = conv(f"num_output: 1 kernel_size: 3 pad: {pad} bias_term: false")
    np.testing.assert_array_equal(run(text, [[IMAGE]], params=[[[FILTER]]])[0], [[expected]])


def test_each_bias_goes_to_its_filter() -> None:
    text = conv("num_output: 2 kernel_size: 1")
    y = run(text, np.ones((1, 1, 1, 2)), params=[[[[[1]]], [[[2]]]], [10, 20]])[0]
    np.testing.assert_array_equal(y, [[[[11, 11]], [[22, 22]]]])


GEOMETRIES = {
    "plain": ((3, 4, 7, 6), "num_output: 6 kernel_size: 3"),
    "rectangle": (
        (3, 2, 7, 9),
        "num_output: 3 kernel_h: 2 kernel_w: 4 pad_h: 1 pad_w: 2 stride_h: 2 stride_w: 3",
    ),
    "stride over kernel": ((2, 2, 9, 11), "num_output: 3 kernel_size: 2 stride: 3"),
    "pad over image": ((2, 1, 2, 3), "num_output: 2 kernel_size: 3 pad: 3"),
    "pad over kernel": ((2, 1, 3, 3), "num_output: 2 kernel_size: 1 pad: 2 stride: 3"),
    "dilation": ((3, 2, 9, 8), "num_output: 3 kernel_size: 2 dilation: 2 dilation: 3 stride: 2 pad: 1"),
    "groups": ((3, 4, 7, 6), "num_output: 6 kernel_size: 3 group: 2 pad: 1"),
    "groups, dilation": ((3, 4, 8, 8), "num_output: 4 kernel_size: 3 group: 2 pad: 2 dilation: 2"),
    "depthwise": ((3, 4, 7, 6), "num_output: 8 kernel_size: 3 group: 4 stride: 2"),
    "pointwise": ((3, 4, 9, 8), "num_output: 5 kernel_size: 1"),
    "pointwise, groups": ((3, 4, 9, 8), "num_output: 6 kernel_size: 1 group: 2"),
    "pointwise, stride": ((3, 4, 9, 8), "num_output: 5 kernel_size: 1 stride: 2"),
    "1-D": ((3, 4, 9), "num_output: 6 kernel_size: 3 pad: 1 stride: 2 group: 2"),
    "3-D": ((2, 2, 5, 4, 6), "num_output: 3 kernel_size: 2 kernel_size: 3 kernel_size: 2 pad: 1 stride: 2"),
    "no spatial axes": ((4, 5), "num_output: 3"),
    "axis 2": ((2, 3, 2, 7), "num_output: 3 kernel_size: 2 axis: 2"),
    "axis -3": ((2, 2, 5, 4), "num_output: 3 kernel_size: 3 axis: -3"),
    "kernel is image": ((3, 2, 4, 5), "num_output: 3 kernel_h: 4 kernel_w: 5"),
    "kernel overhangs by less than a stride": ((2, 2, 4, 4), "num_output: 3 kernel_size: 5 stride: 2"),
}


def by_definition(layer: Any, x: Array, w: Array, bias: Array, dy: Array) -> tuple[Array, Array, Array]:
    """y, dx, dw of the sum that defines a convolution, one product at a time."""
    window, spatial, output = layer.window, x.shape[layer.axis + 1 :], dy.shape[layer.axis + 1 :]
    x, dy = (a.reshape(-1, *a.shape[layer.axis :]) for a in (x, dy))
    y, dx, dw = np.zeros_like(dy) + bias.reshape(-1, *[1] * len(output)), np.zeros_like(x), np.zeros_like(w)
    per_group = len(w) // layer.options.group
    for k, p, r in product(range(len(w)), np.ndindex(*output), np.ndindex(*window.kernel)):
        cell = [
            pi * s + ri * d - pad
            for pi, ri, s, d, pad in zip(p, r, window.stride, window.dilation, window.pad, strict=True)
        ]
        if not all(0 <= i < size for i, size in zip(cell, spatial, strict=True)):
            continue
        first = k // per_group * w.shape[1]
        from_x = (slice(None), slice(first, first + w.shape[1]), *cell)
        y[(slice(None), k, *p)] += x[from_x] @ w[(k, slice(None), *r)]
        dx[from_x] += np.outer(dy[(slice(None), k, *p)], w[(k, slice(None), *r)])
        dw[(k, slice(None), *r)] += dy[(slice(None), k, *p)] @ x[from_x]
    return y, dx, dw


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("narrow", [0, 1 << 30], ids=["sliding", "columns"])
@pytest.mark.parametrize("chunk_bytes", [1, 2 << 20], ids=["image by image", "together"])
def test_every_geometry_is_the_defining_sum(
    geometry: str, narrow: int, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lowering, "NARROW", narrow)
    monkeypatch.setattr(lowering, "CHUNK_BYTES", chunk_bytes)
    shape, options = GEOMETRIES[geometry]
    layer = make_layer(conv(options))
    (top,) = layer.infer([shape])
    x, w, bias = (RNG.standard_normal(s) for s in (shape, *(param.shape for param in layer.params)))
    dy = RNG.standard_normal(top)
    y, dx, dw = by_definition(layer, x, w, bias, dy)
    one = OneLayer(conv(options), x, params=[w, bias], dtype=np.float64)
    np.testing.assert_allclose(one.forward()[0].ravel(), y.ravel(), atol=1e-12)
    np.testing.assert_allclose(np.ravel(one.backward(dy)[0]), dx.ravel(), atol=1e-12)
    for found, expected in zip(
        one.param_grads, (dw, dy.reshape(len(x), *top[1:]).sum(axis=_all_but(layer, dy))), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-12)


def _all_but(layer: Any, dy: Array) -> tuple[int, ...]:
    return tuple(axis for axis in range(dy.ndim) if axis != layer.axis)


def test_chunks_of_unequal_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "NARROW", 0)
    x, w, dy = (
        RNG.standard_normal((7, 2, 6, 6)),
        RNG.standard_normal((3, 2, 3, 3)),
        RNG.standard_normal((7, 3, 6, 6)),
    )
    text = conv("num_output: 3 kernel_size: 3 pad: 1 bias_term: false")
    found = []
    for images in (7, 3):  # 7 = 3 + 3 + 1
        monkeypatch.setattr(lowering, "CHUNK_BYTES", images * 4 * 8 * 2 * 3 * 6)
        one = OneLayer(text, x, params=[w], dtype=np.float64)
        assert one.layer.lowering.chunk == images
        found.append((one.forward()[0].copy(), one.backward(dy)[0], one.param_grads[0]))
    for together, apart in zip(*found, strict=True):
        np.testing.assert_allclose(together, apart, atol=1e-12)


def test_several_bottoms_go_through_the_same_filters() -> None:
    text = conv("num_output: 2 kernel_size: 3") + ' top: "a" top: "b"'
    a, b, da, db = (RNG.standard_normal((2, 3, 5, 5)) for _ in range(4))
    params = [RNG.standard_normal((2, 3, 3, 3)), RNG.standard_normal(2)]
    da, db = da[:, :2, :3, :3], db[:, :2, :3, :3]
    both = OneLayer(text, a, b, params=params, dtype=np.float64)
    tops = [top.copy() for top in both.forward()]
    bottoms = both.backward(da, db)
    sums = [np.zeros_like(p) for p in params]
    for x, dy, top, dx in zip((a, b), (da, db), tops, bottoms, strict=True):
        one = OneLayer(conv("num_output: 2 kernel_size: 3"), x, params=params, dtype=np.float64)
        np.testing.assert_allclose(one.forward()[0], top)
        np.testing.assert_allclose(one.backward(dy)[0], dx)
        sums = [s + grad for s, grad in zip(sums, one.param_grads, strict=True)]
    for expected, grad in zip(sums, both.param_grads, strict=True):
        np.testing.assert_allclose(expected, grad)


def test_a_top_without_gradient_gives_none_to_its_bottom() -> None:
    text = conv("num_output: 2 kernel_size: 1") + ' top: "a" top: "b"'
    x, dy = np.ones((1, 1, 2, 2)), np.ones((1, 2, 2, 2))
    one = OneLayer(text, x, x, params=[np.ones((2, 1, 1, 1)), np.zeros(2)])
    one.forward()
    first, second = one.backward(dy, None)
    np.testing.assert_array_equal(first, np.full((1, 1, 2, 2), 2))
    np.testing.assert_array_equal(second, np.zeros((1, 1, 2, 2)))
    np.testing.assert_array_equal(one.param_grads[1], [4, 4])


def test_parameter_gradients_add_up() -> None:
    one = OneLayer(
        conv("num_output: 1 kernel_size: 2"), np.ones((1, 1, 3, 3)), params=[np.ones((1, 1, 2, 2)), [0]]
    )
    one.forward()
    for times in (1, 2):
        one.backward(np.ones((1, 1, 2, 2)))
        np.testing.assert_array_equal(one.param_grads[0], np.full((1, 1, 2, 2), 4 * times))
        np.testing.assert_array_equal(one.param_grads[1], [4 * times])


def test_only_wanted_gradients_are_computed() -> None:
    one = OneLayer(
        conv("num_output: 1 kernel_size: 2"), np.ones((1, 1, 3, 3)), params=[np.ones((1, 1, 2, 2)), [0]]
    )
    one.forward()
    one.buffers.param_grads = [None, None]
    assert one.backward(np.ones((1, 1, 2, 2)), wanted=[False]) == [None]
    assert (
        gradients(
            conv("num_output: 1 kernel_size: 2"),
            np.ones((1, 1, 3, 3)),
            params=[np.ones((1, 1, 2, 2)), [0]],
            top_grads=[np.ones((1, 1, 2, 2))],
        )[0].sum()
        == 16
    )  # type: ignore[union-attr]


@pytest.mark.parametrize("options", ["kernel_size: 3", "kernel_size: 1"])
def test_no_images_give_no_outputs(options: str) -> None:
    one = OneLayer(
        conv(f"num_output: 4 {options}"),
        np.ones((0, 2, 9, 9)),
        params=[np.ones((4, 2, int(options[-1]), int(options[-1]))), np.ones(4)],
    )
    (top,) = one.forward()
    assert top.shape[0] == 0
    assert one.backward(top)[0].shape == (0, 2, 9, 9)  # type: ignore[union-attr]
    assert not any(np.any(grad) for grad in one.param_grads)


def test_slopes() -> None:
    check_slopes(
        conv("num_output: 4 kernel_size: 2 stride: 2 pad: 1 group: 2"),
        RNG.standard_normal((2, 4, 4, 5)),
        params=[RNG.standard_normal((4, 2, 2, 2)), RNG.standard_normal(4)],
    )


@pytest.mark.parametrize(
    ("options", "shape", "said"),
    [
        ("kernel_size: 3", (1, 3, 5, 5), "num_output must be at least 1"),
        ("num_output: 4", (1, 3, 5, 5), "kernel_size is missing"),
        ("num_output: 4 kernel_size: 0", (1, 3, 5, 5), "kernel_size must be at least 1"),
        ("num_output: 4 kernel_h: 3", (1, 3, 5, 5), "kernel_w must be at least 1"),
        ("num_output: 4 kernel_size: 3 kernel_h: 3 kernel_w: 3", (1, 3, 5, 5), "say the same thing twice"),
        ("num_output: 4 kernel_size: 3 stride: 0", (1, 3, 5, 5), "stride must be at least 1"),
        ("num_output: 4 kernel_size: 3 dilation: 0", (1, 3, 5, 5), "dilation must be at least 1"),
        ("num_output: 4 kernel_size: 3 pad: 1 pad_h: 1", (1, 3, 5, 5), "say the same thing twice"),
        ("num_output: 4 kernel_h: 3 kernel_w: 3", (1, 3, 5), "kernel_h is for two spatial axes"),
        ("num_output: 4 kernel_size: [3, 3, 3]", (1, 3, 5, 5), "once for each spatial axis"),
        ("num_output: 4 kernel_size: 7", (1, 3, 5, 5), "larger than its padded input"),
        ("num_output: 4 kernel_size: 3 dilation: 4", (1, 3, 5, 5), "larger than its padded input"),
        ("num_output: 4 kernel_size: 3 group: 2", (1, 3, 5, 5), "the 3 input channels cannot be split"),
        ("num_output: 4 kernel_size: 3 group: 3", (1, 3, 5, 5), "the 4 outputs cannot be split"),
        ("num_output: 4 kernel_size: 3 group: 0", (1, 3, 5, 5), "group must be at least 1"),
        ("num_output: 4 kernel_size: 3 axis: 4", (1, 3, 5, 5), "axis 4 does not exist"),
    ],
)
def test_refuses(options: str, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(NetcError, match=said) as caught:
        make_layer(conv(options)).infer([shape])
    assert caught.value.layer == "layer (Convolution)"


def test_refuses_bottoms_of_unlike_shapes() -> None:
    layer = make_layer(conv("num_output: 4 kernel_size: 3"), bottoms=2)
    with pytest.raises(NetcError, match="the same shape") as caught:
        layer.infer([(1, 3, 5, 5), (1, 3, 5, 6)])
    assert (caught.value.blob, caught.value.expected, caught.value.found) == (
        "x1",
        (1, 3, 5, 5),
        (1, 3, 5, 6),
    )


def test_names_the_line_of_the_option() -> None:
    asked: list[tuple[str, ...]] = []
    layer = make_layer(conv("num_output: 4 kernel_size: 9"), locate=lambda *path: asked.append(path))
    with pytest.raises(NetcError):
        layer.infer([(1, 3, 5, 5)])
    assert asked == [("convolution_param", "kernel_size")]


@pytest.mark.parametrize(
    ("hole", "dilation"), [("hole: 2", "dilation: 2"), ("hole_h: 1 hole_w: 3", "dilation: 1 dilation: 3")]
)
def test_hole_is_dilation_by_another_name(hole: str, dilation: str) -> None:
    layers = [
        make_layer(f'type: "Convolution" convolution_param {{ num_output: 2 kernel_size: 2 {option} }}')
        for option in (hole, dilation)
    ]
    assert layers[0].infer([(1, 1, 7, 9)]) == layers[1].infer([(1, 1, 7, 9)])
    assert layers[0].window == layers[1].window


@pytest.mark.parametrize(
    "options", ["hole: 2 dilation: 2", "hole_h: 2", "hole: 1 hole_h: 2 hole_w: 2", "hole: 0"]
)
def test_dilations_that_are_not_clear_are_refused(options: str) -> None:
    layer = make_layer(f'type: "Convolution" convolution_param {{ num_output: 2 kernel_size: 2 {options} }}')
    with pytest.raises(NetcError, match="dilation"):
        layer.infer([(1, 1, 7, 9)])
