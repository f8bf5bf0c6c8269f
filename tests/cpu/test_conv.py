"""Convolution on oneDNN against the layer's own meaning, over geometries and layouts."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cpu.conv import make_convolution
from netc.backends.cpu.filters import FiltersForm, Layouts
from netc.backends.cpu.geometry import convolution
from netc.backends.form import Mode
from netc.layer import Buffers
from tests.cpu.form_case import (
    BLOCKED,
    LAYOUTS,
    NHWC,
    PLAIN,
    FormCase,
    aligned,
    allocate,
    build,
    engine,
    pack,
)

GEOMETRIES = {
    "few channels": ((3, 4, 7, 6), "num_output: 6 kernel_size: 3"),
    "a block of channels": ((2, 16, 9, 8), "num_output: 32 kernel_size: 3 pad: 1"),
    "LeNet's second": ((2, 20, 12, 12), "num_output: 50 kernel_size: 5"),
    "rectangle": (
        (3, 2, 7, 9),
        "num_output: 3 kernel_h: 2 kernel_w: 4 pad_h: 1 pad_w: 2 stride_h: 2 stride_w: 3",
    ),
    "stride leaves cells over": ((2, 8, 10, 12), "num_output: 8 kernel_size: 3 stride: 2"),
    "stride over kernel": ((2, 2, 9, 11), "num_output: 3 kernel_size: 2 stride: 3"),
    "pad over image": ((2, 1, 2, 3), "num_output: 2 kernel_size: 3 pad: 3"),
    "dilation": ((3, 2, 9, 8), "num_output: 3 kernel_size: 2 dilation: 2 dilation: 3 stride: 2 pad: 1"),
    "groups": ((3, 4, 7, 6), "num_output: 6 kernel_size: 3 group: 2 pad: 1"),
    "groups of blocks": ((2, 32, 7, 6), "num_output: 64 kernel_size: 3 group: 2 pad: 1"),
    "depthwise": ((2, 16, 9, 8), "num_output: 16 kernel_size: 3 group: 16 pad: 1 stride: 2"),
    "depthwise, odd": ((2, 5, 9, 8), "num_output: 5 kernel_size: 3 group: 5 pad: 1"),
    "pointwise": ((3, 24, 9, 8), "num_output: 40 kernel_size: 1"),
    "pointwise, stride": ((3, 4, 9, 8), "num_output: 5 kernel_size: 1 stride: 2"),
    "pointwise, strides differ": ((2, 16, 9, 8), "num_output: 24 kernel_size: 1 stride_h: 1 stride_w: 3"),
    "pointwise, stride over image": ((2, 8, 3, 4), "num_output: 8 kernel_size: 1 stride: 5"),
    "pointwise, pad": ((2, 8, 3, 4), "num_output: 8 kernel_size: 1 stride: 2 pad: 1"),
    "no bias": ((2, 8, 6, 6), "num_output: 8 kernel_size: 3 bias_term: false"),
    "1-D": ((3, 4, 9), "num_output: 6 kernel_size: 3 pad: 1 stride: 2 group: 2"),
    "3-D": ((2, 2, 5, 4, 6), "num_output: 3 kernel_size: 2 kernel_size: 3 kernel_size: 2 pad: 1 stride: 2"),
    "axis 2": ((2, 3, 2, 7), "num_output: 3 kernel_size: 2 axis: 2"),
    "kernel is image": ((3, 2, 4, 5), "num_output: 3 kernel_h: 4 kernel_w: 5"),
    "kernel overhangs by less than a stride": ((2, 2, 4, 4), "num_output: 3 kernel_size: 5 stride: 2"),
    "one image, one cell": ((1, 3, 1, 1), "num_output: 5 kernel_size: 1"),
}


def conv(options: str, more: str = "") -> str:
    layer = f'name: "c" type: "Convolution" bottom: "x0" top: "y" convolution_param {{ {options} }}'
    return f"layer {{ {layer} }}\n{more}"


def relu(top: str = "y", options: str = "") -> str:
    return f'layer {{ name: "r" type: "ReLU" bottom: "y" top: "{top}" relu_param {{ {options} }} }}\n'


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_convolution(geometry: str, layout: str) -> None:
    shape, options = GEOMETRIES[geometry]
    FormCase(make_convolution, build(conv(options), shape), layout).check()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("top", ["y", "z"])
@pytest.mark.parametrize("slope", [0, 0.25])
def test_relu_rides_along(layout: str, top: str, slope: float) -> None:
    layers = conv("num_output: 12 kernel_size: 3 pad: 1", relu(top, f"negative_slope: {slope}"))
    FormCase(make_convolution, build(layers, (2, 8, 7, 6)), layout).check()


def test_relu_with_a_negative_slope_below_zero_stays_a_layer() -> None:
    layers = conv("num_output: 12 kernel_size: 3", relu("y", "negative_slope: -0.5"))
    assert FormCase(make_convolution, build(layers, (2, 8, 7, 6)), PLAIN).form is None


def test_images_stay_plain() -> None:
    layers = conv("num_output: 16 kernel_size: 5 stride: 2")
    for layout in (NHWC, BLOCKED):
        form = FormCase(make_convolution, build(layers, (2, 3, 15, 15)), layout, wanted=[False]).check()
        assert form.bottom_layouts == (PLAIN,)
        assert form.top_layouts == (layout,)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inference(layout: str) -> None:
    layers = conv("num_output: 16 kernel_size: 3", relu())
    FormCase(make_convolution, build(layers, (1, 8, 9, 9)), layout, backward=False).check()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_packed_once_serve_until_they_are_packed_again(layout: str) -> None:
    graph = build(conv("num_output: 16 kernel_size: 3 bias_term: false"), (1, 8, 9, 9))
    opened, node = engine(), graph.nodes[1]
    geometry = convolution(node.layer)
    assert geometry is not None
    mode, layouts = Mode(backward=False, layout=layout), Layouts(layout, layout)
    form = FiltersForm([node], mode, opened, "convolution", geometry, layouts, packs_once=True)
    weight = np.ones((16, 8, 3, 3), np.float32)
    top = aligned(pack(np.zeros(node.outputs[0].shape, np.float32), layout, opened.block))
    bottom = aligned(pack(np.ones((1, 8, 9, 9), np.float32), layout, opened.block))
    b = Buffers([bottom], [top], [weight], workspace=allocate(form.forward_workspace))
    prepare, forward = form.prepare(b), form.forward(b)
    assert prepare is not None
    found = []
    for change in (lambda: None, prepare, lambda: weight.fill(2), prepare):
        change()
        forward()
        found.append(float(top.reshape(-1)[0]))
    assert found == [0, 72, 72, 144]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", ["", "bias_term: false"])
def test_fresh_gradients_are_written(layout: str, options: str) -> None:
    graph = build(conv(f"num_output: 16 kernel_size: 3 {options}"), (2, 8, 9, 9))
    assert FormCase(make_convolution, graph, layout, fresh=True).check().writes_fresh


@pytest.mark.parametrize(("top", "fits"), [("z", False), ("y", True)])
def test_a_top_that_is_written_over_later_does_not_tell_the_gradient(top: str, fits: bool) -> None:
    """A ReLU of its own top reads its bottom in Caffe; in place it reads what is there by then."""
    power = f'layer {{ name: "p" type: "Power" bottom: "{top}" top: "{top}" power_param {{ scale: -1 }} }}'
    graph = build(conv("num_output: 8 kernel_size: 3", relu(top) + power), (2, 8, 7, 6))
    form = make_convolution(graph.nodes[1:3], Mode(), engine())
    assert (form is not None) == fits
