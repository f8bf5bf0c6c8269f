"""A convolution and its batch normalisation as one form, against the layers' own meaning."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cpu.bn import FOLLOWERS
from netc.backends.cpu.conv_bn import (
    FoldedConvolutionForm,
    ScaledConvolutionForm,
    make_convolution_batch_norm,
)
from netc.layer import Buffers
from netc.proto import netc_pb2 as pb
from tests.cpu.form_case import LAYOUTS, NHWC, FormCase, aligned, allocate, build, pack

OPTIONS = {"bias": "bias_term: true", "no bias": "bias_term: false"}


def chain(followers: tuple[str, ...], options: str, bn: str = "y", residual: str = "x1") -> str:
    """residual: an Eltwise's other bottom; with a comma before it, it comes first."""
    options = f"num_output: 16 kernel_size: 3 pad: 1 {options}"
    top = bn
    layers = [f'type: "Convolution" bottom: "x0" top: "y" convolution_param {{ {options} }}']
    layers.append(f'type: "BatchNorm" bottom: "y" top: "{bn}"')
    if "Scale" in followers:
        layers.append(f'type: "Scale" bottom: "{bn}" top: "{bn}" scale_param {{ bias_term: true }}')
    if "Eltwise" in followers:
        bottoms = (residual[1:], bn) if residual.startswith(",") else (bn, residual)
        layers.append(f'type: "Eltwise" bottom: "{bottoms[0]}" bottom: "{bottoms[1]}" top: "sum"')
        top = "sum"
    if "ReLU" in followers:
        layers.append(f'type: "ReLU" bottom: "{top}" top: "{top}"')
    return "\n".join(f'layer {{ name: "{i}" {layer} }}' for i, layer in enumerate(layers))


def shapes(followers: tuple[str, ...], images: int) -> list[tuple[int, ...]]:
    """Of the image and, where an Eltwise follows, of the residual."""
    return [(images, 8, 6, 5), (images, 16, 6, 5)][: 1 + ("Eltwise" in followers)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bn", ["y", "z"])
@pytest.mark.parametrize("phase", [pb.TRAIN, pb.TEST])
@pytest.mark.parametrize("followers", FOLLOWERS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_chain(layout: str, bn: str, phase: int, followers: tuple[str, ...], options: str) -> None:
    graph = build(chain(followers, options, bn), *shapes(followers, 4), phase=phase)
    case = FormCase(make_convolution_batch_norm, graph, layout, low=0.1)
    if "Eltwise" in followers and layout != NHWC:
        assert case.form is None  # a shorter chain runs, and a sum after it
    else:
        case.check()


@pytest.mark.parametrize("residual", ["x1", ",x1"])
@pytest.mark.parametrize("wanted", [(True, False), (False, True), (False, False)])
def test_residual_and_image_get_the_gradients_that_are_wanted(
    residual: str, wanted: tuple[bool, bool]
) -> None:
    followers = ("Scale", "Eltwise", "ReLU")
    graph = build(chain(followers, "", "y", residual), *shapes(followers, 4))
    first, last = graph.nodes[-5], graph.nodes[-2]
    first.input_needs_grad = [wanted[0]]
    last.input_needs_grad[0 if residual.startswith(",") else 1] = wanted[1]
    FormCase(make_convolution_batch_norm, graph, NHWC, low=0.1).check()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("followers", [followers for followers in FOLLOWERS if "Eltwise" not in followers])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("holds", [False, True])
def test_inference(layout: str, followers: tuple[str, ...], options: str, holds: bool) -> None:
    graph = build(chain(followers, options), (1, 8, 6, 5), phase=pb.TEST)
    case = FormCase(make_convolution_batch_norm, graph, layout, low=0.1, backward=False, holds=holds)
    assert isinstance(case.check(), FoldedConvolutionForm if holds else ScaledConvolutionForm)


def test_folding_serves_until_it_is_done_again() -> None:
    graph = build(chain(("Scale",), "bias_term: true"), (1, 8, 6, 5), phase=pb.TEST)
    case = FormCase(make_convolution_batch_norm, graph, NHWC, low=0.1, backward=False, holds=True)
    form = case.form
    assert form is not None
    arrays = [aligned(pack(case.draw(v.shape), NHWC, case.block)) for v in (*form.inputs, *form.outputs)]
    b = Buffers(arrays[:1], arrays[1:], [aligned(array) for array in case.params])
    b.workspace = allocate(form.forward_workspace)
    prepare, forward = form.prepare(b), form.forward(b)
    assert prepare is not None
    assert forward is not None
    prepare()
    forward()
    first = b.tops[0].copy()
    for place in (-2, -1):  # the Scale's
        b.params[place] *= 2
    forward()
    np.testing.assert_array_equal(b.tops[0], first)
    prepare()
    forward()
    np.testing.assert_array_equal(b.tops[0], 2 * first)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_residual_is_not_added_by_onednns_convolutions(layout: str) -> None:
    followers = ("Scale", "Eltwise", "ReLU")
    graph = build(chain(followers, ""), *shapes(followers, 1), phase=pb.TEST)
    assert FormCase(make_convolution_batch_norm, graph, layout, backward=False).form is None


def test_images_get_no_gradient() -> None:
    graph = build(chain(("Scale", "ReLU"), "bias_term: false"), (4, 3, 6, 5))
    FormCase(make_convolution_batch_norm, graph, NHWC, low=0.1, wanted=[False]).check()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fresh_gradients_are_written(layout: str) -> None:
    graph = build(chain(("Scale", "ReLU"), "bias_term: false"), (4, 8, 6, 5))
    graph.nodes[2].param_needs_grad = [False] * 3  # of the statistics
    case = FormCase(make_convolution_batch_norm, graph, layout, low=0.1, fresh=True)
    assert case.check().writes_fresh
