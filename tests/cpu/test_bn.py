"""Batch normalisation on oneDNN, with what may follow it, against the layers' own meaning."""

from __future__ import annotations

import pytest

from netc.backends.cpu.bn import make_batch_norm
from netc.proto import netc_pb2 as pb
from tests.cpu.form_case import LAYOUTS, PLAIN, FormCase, build

SHAPES = [(4, 5, 6, 3), (3, 16, 5, 5), (6, 7), (2, 3, 10), (1, 4, 1, 2)]


def chain(top: str = "x0", options: str = "", scale: str | None = None, relu: bool = False) -> str:
    layers = [f'type: "BatchNorm" bottom: "x0" top: "{top}" batch_norm_param {{ {options} }}']
    if scale is not None:
        layers.append(f'type: "Scale" bottom: "{top}" top: "{top}" scale_param {{ {scale} }}')
    if relu:
        layers.append(f'type: "ReLU" bottom: "{top}" top: "{top}"')
    return "\n".join(f'layer {{ name: "{i}" {layer} }}' for i, layer in enumerate(layers))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("top", ["x0", "y"])
@pytest.mark.parametrize("phase", [pb.TRAIN, pb.TEST])
@pytest.mark.parametrize("scale", [None, "", "bias_term: true"])
@pytest.mark.parametrize("relu", [False, True])
def test_normalisation(
    layout: str, shape: tuple[int, ...], top: str, phase: int, scale: str | None, relu: bool
) -> None:
    graph = build(chain(top, "eps: 0.01", scale, relu), shape, phase=phase)
    FormCase(make_batch_norm, graph, layout, low=0.1).check()


@pytest.mark.parametrize("options", ["scale_bias: true", "scale_bias: true bias_term: false"])
def test_factor_and_bias_of_its_own(options: str) -> None:
    FormCase(make_batch_norm, build(chain("y", options), (4, 5, 3, 3)), PLAIN, low=0.1).check()


def test_unwanted_gradient_of_the_bottom_is_not_written() -> None:
    graph = build(chain("y", "", "bias_term: true"), (4, 16, 3, 3))
    FormCase(make_batch_norm, graph, "nhwc", wanted=[False], low=0.1).check()


@pytest.mark.parametrize("phase", [pb.TRAIN, pb.TEST])
def test_inference(phase: int) -> None:
    graph = build(chain("x0", "", "bias_term: true", relu=True), (4, 16, 3, 3), phase=phase)
    FormCase(make_batch_norm, graph, "blocked", low=0.1, backward=False).check()


def test_running_sums_without_weight_count_as_zero() -> None:
    case = FormCase(make_batch_norm, build(chain("y"), (4, 5, 3, 3), phase=pb.TEST), PLAIN)
    case.params[2][...] = 0
    case.check()


@pytest.mark.parametrize(
    "layers",
    [
        chain(scale="axis: 0 num_axes: 2"),
        chain(scale="axis: 2"),
        chain("y", "scale_bias: true", ""),
    ],
    ids=["a factor for each channel of each image", "a factor for each row", "two factors"],
)
def test_other_factors_stay_a_layer(layers: str) -> None:
    assert FormCase(make_batch_norm, build(layers, (4, 4, 4, 4)), PLAIN).form is None
