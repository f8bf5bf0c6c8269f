"""A convolution and its batch normalisation as one form, against the layers' own meaning."""

from __future__ import annotations

import pytest

from netc.backends.cpu.conv_bn import FORMS, ScaledConvolutionForm, make_convolution_batch_norm
from netc.proto import netc_pb2 as pb
from tests.cpu.form_case import LAYOUTS, NHWC, FormCase, build

OPTIONS = {"bias": "bias_term: true", "no bias": "bias_term: false"}


def chain(followers: tuple[str, ...], options: str, bn: str = "y") -> str:
    options = f"num_output: 16 kernel_size: 3 pad: 1 {options}"
    layers = [f'type: "Convolution" bottom: "x0" top: "y" convolution_param {{ {options} }}']
    layers.append(f'type: "BatchNorm" bottom: "y" top: "{bn}"')
    if "Scale" in followers:
        layers.append(f'type: "Scale" bottom: "{bn}" top: "{bn}" scale_param {{ bias_term: true }}')
    if "ReLU" in followers:
        layers.append(f'type: "ReLU" bottom: "{bn}" top: "{bn}"')
    return "\n".join(f'layer {{ name: "{i}" {layer} }}' for i, layer in enumerate(layers))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bn", ["y", "z"])
@pytest.mark.parametrize("phase", [pb.TRAIN, pb.TEST])
@pytest.mark.parametrize("followers", [key[2:] for key in FORMS if key[0] == "Convolution"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_chain(layout: str, bn: str, phase: int, followers: tuple[str, ...], options: str) -> None:
    graph = build(chain(followers, options, bn), (4, 8, 6, 5), phase=phase)
    FormCase(make_convolution_batch_norm, graph, layout, low=0.1).check()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("followers", [key[2:] for key in FORMS if key[0] == "Convolution"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_inference(layout: str, followers: tuple[str, ...], options: str) -> None:
    graph = build(chain(followers, options), (1, 8, 6, 5), phase=pb.TEST)
    form = FormCase(make_convolution_batch_norm, graph, layout, low=0.1, backward=False).check()
    assert isinstance(form, ScaledConvolutionForm)


def test_images_get_no_gradient() -> None:
    graph = build(chain(("Scale", "ReLU"), "bias_term: false"), (4, 3, 6, 5))
    FormCase(make_convolution_batch_norm, graph, NHWC, low=0.1, wanted=[False]).check()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fresh_gradients_are_written(layout: str) -> None:
    graph = build(chain(("Scale", "ReLU"), "bias_term: false"), (4, 8, 6, 5))
    graph.nodes[2].param_needs_grad = [False] * 3  # of the statistics
    case = FormCase(make_convolution_batch_norm, graph, layout, low=0.1, fresh=True)
    assert case.check().writes_fresh
