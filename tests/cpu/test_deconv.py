"""Deconvolution on oneDNN against the layer's own meaning, over geometries and layouts."""

from __future__ import annotations

import pytest

from netc.backends.cpu.deconv import make_deconvolution
from tests.cpu.form_case import LAYOUTS, FormCase, build

GEOMETRIES = {
    "few channels": ((3, 4, 5, 4), "num_output: 6 kernel_size: 3 stride: 2"),
    "a block of channels": ((2, 16, 5, 4), "num_output: 32 kernel_size: 4 stride: 2 pad: 1"),
    "rectangle": (
        (3, 2, 4, 5),
        "num_output: 3 kernel_h: 2 kernel_w: 4 pad_h: 1 pad_w: 2 stride_h: 2 stride_w: 3",
    ),
    "dilation": ((3, 2, 5, 4), "num_output: 3 kernel_size: 2 dilation: 2 dilation: 3 stride: 2 pad: 1"),
    "groups": ((2, 4, 5, 4), "num_output: 6 kernel_size: 3 group: 2 pad: 1"),
    "bilinear": ((1, 21, 6, 5), "num_output: 21 kernel_size: 4 stride: 2 pad: 1 group: 21 bias_term: false"),
    "no bias": ((2, 8, 6, 6), "num_output: 8 kernel_size: 3 bias_term: false"),
}


def deconv(options: str) -> str:
    layer = f'name: "d" type: "Deconvolution" bottom: "x0" top: "y" convolution_param {{ {options} }}'
    return f"layer {{ {layer} }}\n"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_deconvolution(geometry: str, layout: str) -> None:
    shape, options = GEOMETRIES[geometry]
    FormCase(make_deconvolution, build(deconv(options), shape), layout).check()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_relu_rides_along(layout: str) -> None:
    relu = 'layer { name: "r" type: "ReLU" bottom: "y" top: "y" }'
    layers = deconv("num_output: 12 kernel_size: 3 pad: 1 stride: 2") + relu
    FormCase(make_deconvolution, build(layers, (2, 8, 7, 6)), layout).check()
