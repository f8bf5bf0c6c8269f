"""DepthwiseConvolution and ConvolutionDepthwise: each channel by itself, as a grouped Convolution has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import OneLayer, make_layer

RNG = np.random.default_rng(8)


def text(kind: str, options: str) -> str:
    return f'type: "{kind}" convolution_param {{ {options} }}'


def run_both_ways(of: str, x: Any, params: list[Any]) -> list[Any]:
    layer = OneLayer(of, x, params=params, dtype=np.float64)
    (y,) = layer.forward()
    (dx,) = layer.backward(np.sin(np.arange(y.size)).reshape(y.shape))
    return [y, dx, *layer.param_grads]


@pytest.mark.parametrize("kind", ["DepthwiseConvolution", "ConvolutionDepthwise"])
@pytest.mark.parametrize(
    ("options", "kernel", "shape"),
    [
        ("kernel_size: 3 stride: 1 pad: 1", (3, 3), (2, 4, 6, 5)),
        ("kernel_size: 3 stride: 2 pad: 1", (3, 3), (3, 4, 7, 8)),
        ("kernel_h: 2 kernel_w: 5 stride_h: 3 stride_w: 1 pad_h: 0 pad_w: 2", (2, 5), (1, 4, 9, 5)),
        ("kernel_size: 3 stride: 1 pad: 2 dilation: 2", (3, 3), (2, 4, 5, 4)),
        ("kernel_size: 1 stride: 1 pad: 0", (1, 1), (2, 4, 3, 1)),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_a_convolution_with_a_group_per_channel(
    kind: str, options: str, kernel: tuple[int, int], shape: tuple[int, ...], bias: bool
) -> None:
    options += f" num_output: 4 group: 4 bias_term: {str(bias).lower()}"
    x, weight = RNG.standard_normal(shape), RNG.standard_normal((4, 1, *kernel))
    params = [weight, RNG.standard_normal(4)][: 1 + bias]
    found = run_both_ways(text(kind, options), x, params)
    expected = run_both_ways(text("Convolution", options), x, params)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_many_images_are_filtered_in_parts() -> None:
    options = "kernel_size: 3 stride: 1 pad: 1 num_output: 8 group: 8"
    x, *params = (RNG.standard_normal(shape) for shape in ((9, 8, 50, 50), (8, 1, 3, 3), (8,)))
    found = run_both_ways(text("DepthwiseConvolution", options), x, params)
    expected = run_both_ways(text("Convolution", options), x, params)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_a_depthwise_convolution_of_fewer_groups_is_a_plain_one() -> None:
    options = "kernel_size: 3 num_output: 6 group: 2"
    x, params = RNG.standard_normal((2, 4, 5, 6)), [RNG.standard_normal((6, 2, 3, 3)), RNG.standard_normal(6)]
    found = run_both_ways(text("DepthwiseConvolution", options), x, params)
    expected = run_both_ways(text("Convolution", options), x, params)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_convolution_depthwise_ignores_num_output_and_group() -> None:
    layer = make_layer(text("ConvolutionDepthwise", "num_output: 9 group: 7 kernel_size: 3 stride: 1 pad: 0"))
    assert layer.infer([(2, 5, 6, 6)]) == [(2, 5, 4, 4)]
    assert [param.shape for param in layer.params] == [(5, 1, 3, 3), (5,)]


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ("kernel_size: 3 pad: 1", (1, 2, 5, 5), "stride is missing"),
        ("kernel_size: 3 stride: 1", (1, 2, 5, 5), "pad is missing"),
        ("kernel_size: 3 stride: 1 pad: 0", (1, 2, 2, 5), "larger than its padded input"),
        ("kernel_size: 3 stride: 1 pad: 0", (2, 5, 5), "needs \\(N, C, H, W\\)"),
    ],
)
def test_convolution_depthwise_refuses(options: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(NetcError, match=message):
        make_layer(text("ConvolutionDepthwise", options)).infer([shape])
