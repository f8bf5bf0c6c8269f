"""Pooling on oneDNN against the layer's own meaning, over windows, methods and layouts."""

from __future__ import annotations

import pytest

from netc.backends.cpu.pool import make_pooling
from tests.cpu.form_case import LAYOUTS, FormCase, build

WINDOWS = {
    "LeNet's": ((2, 20, 24, 24), "kernel_size: 2 stride: 2"),
    "overlapping": ((2, 8, 13, 13), "kernel_size: 3 stride: 2"),
    "ceil goes over the edge": ((2, 8, 32, 32), "kernel_size: 3 stride: 2"),
    "floor leaves cells over": ((2, 8, 8, 8), "kernel_size: 3 stride: 2 round_mode: FLOOR"),
    "padding": ((2, 16, 7, 9), "kernel_size: 3 stride: 1 pad: 1"),
    "padding, last window dropped": ((2, 8, 5, 5), "kernel_size: 2 stride: 2 pad: 1"),
    "padding, ceil goes over the edge": ((2, 8, 8, 8), "kernel_size: 3 stride: 2 pad: 1"),
    "padding, far over the edge": ((2, 8, 9, 8), "kernel_size: 5 stride: 3 pad: 2"),
    "rectangle": ((2, 3, 9, 8), "kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0"),
    "stride over kernel": ((2, 8, 8, 8), "kernel_size: 2 stride: 3"),
    "global": ((2, 24, 7, 6), "global_pooling: true"),
    "one channel": ((2, 1, 6, 6), "kernel_size: 2 stride: 2"),
}


def pool(options: str, more: str = "") -> str:
    return (
        f'layer {{ name: "p" type: "Pooling" bottom: "x0" top: "y" pooling_param {{ {options} }} }}\n{more}'
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("window", WINDOWS)
def test_pooling(window: str, method: str, layout: str) -> None:
    shape, options = WINDOWS[window]
    FormCase(make_pooling, build(pool(f"pool: {method} {options}"), shape), layout).check()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("top", ["y", "z"])
@pytest.mark.parametrize("slope", [0, 0.25])
def test_relu_rides_along(layout: str, method: str, top: str, slope: float) -> None:
    relu = f'name: "r" type: "ReLU" bottom: "y" top: "{top}" relu_param {{ negative_slope: {slope} }}'
    layers = pool(f"pool: {method} kernel_size: 3 stride: 2 pad: 1", f"layer {{ {relu} }}")
    FormCase(make_pooling, build(layers, (2, 16, 8, 8)), layout).check()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_inference(layout: str, method: str) -> None:
    layers = pool(f"pool: {method} kernel_size: 3 stride: 2")
    form = FormCase(make_pooling, build(layers, (1, 8, 9, 9)), layout, backward=False).check()
    assert not form.saved


@pytest.mark.parametrize(
    "layers",
    [
        pool("pool: STOCHASTIC kernel_size: 2"),
        pool("pool: MAX kernel_size: 1 stride: 3"),
        'layer { type: "Pooling" bottom: "x0" top: "y" top: "mask" pooling_param { kernel_size: 2 } }',
    ],
    ids=["drawn", "a window behind the image", "the maxima's places"],
)
def test_what_onednn_cannot_do_stays_the_layers(layers: str) -> None:
    assert FormCase(make_pooling, build(layers, (2, 8, 5, 5)), "nhwc").form is None
