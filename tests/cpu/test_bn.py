"""Batch normalisation on oneDNN, with what may follow it, against the layers' own meaning."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from netc.backends.cpu import loops
from netc.backends.cpu.bn import FOLLOWERS, make_batch_norm
from netc.layer import Buffers
from netc.proto import netc_pb2 as pb
from tests.cpu.form_case import (
    LAYOUTS,
    NHWC,
    PLAIN,
    FormCase,
    aligned,
    allocate,
    build,
    pack,
    unpack,
)
from tests.cpu.test_update import team_of

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


def followed(*followers: str, factor: str = "bias_term: true", bottoms: str = "y x1", top: str = "y") -> str:
    """A BatchNorm with a Scale, the sum with a residual and a ReLU, those that are named."""
    layers = [f'type: "BatchNorm" bottom: "x0" top: "{top}"']
    if "Scale" in followers:
        layers.append(f'type: "Scale" bottom: "{top}" top: "{top}" scale_param {{ {factor} }}')
    if "Eltwise" in followers:
        first, second = bottoms.split()
        layers.append(f'type: "Eltwise" bottom: "{first}" bottom: "{second}" top: "z"')
        top = "z"
    if "ReLU" in followers:
        layers.append(f'type: "ReLU" bottom: "{top}" top: "{top}"')
    return "\n".join(f'layer {{ name: "{i}" {layer} }}' for i, layer in enumerate(layers))


IMAGES = [(5, 8, 1, 1), (1, 24, 3, 5), (3, 16, 9, 8), (1, 8, 20, 20)]


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("followers", FOLLOWERS)
@pytest.mark.parametrize("bottoms", ["y x1", "x1 y"])
@pytest.mark.parametrize("phase", [pb.TRAIN, pb.TEST])
def test_loops_channels_last(
    shape: tuple[int, ...], followers: tuple[str, ...], bottoms: str, phase: int
) -> None:
    pytest.importorskip("numba", reason="the loops need numba (netc[cpu])")
    graph = build(followed(*followers, bottoms=bottoms), shape, shape, phase=phase)
    for fresh in (False, True):
        form = FormCase(make_batch_norm, graph, NHWC, low=0.1, fresh=fresh).check()
        assert form.variant == "loop nhwc"


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("followers", [("Scale", "ReLU"), ("Scale", "Eltwise", "ReLU")])
def test_loops_in_any_number_of_threads(threads: int, followers: tuple[str, ...]) -> None:
    pytest.importorskip("numba", reason="the loops need numba (netc[cpu])")
    for shape in ((1, 8, 1, 1), (2, 16, 9, 8)):
        with team_of(threads):
            FormCase(make_batch_norm, build(followed(*followers), shape, shape), NHWC, low=0.1).check()


def test_a_large_mean_costs_no_digits() -> None:
    """A variance of 1 around 1000: squares would lose all but one of float32's seven digits."""
    pytest.importorskip("numba", reason="the loops need numba (netc[cpu])")
    random = np.random.default_rng(5)
    shape = (2, 16, 30, 30)
    case = FormCase(make_batch_norm, build(followed(), shape), NHWC, backward=False)
    bottom = (1000 + random.standard_normal(shape)).astype(np.float32)
    form = case.form
    assert form is not None
    arrays = [aligned(pack(values, NHWC, case.block)) for values in (bottom, np.zeros_like(bottom))]
    b = Buffers(arrays[:1], arrays[1:], [aligned(array) for array in case.params], allocate(form.saved))
    b.workspace = allocate(form.forward_workspace)
    run = form.forward(b)
    assert run is not None
    run()
    exact = bottom.astype(np.float64)
    mean, variance = (of(exact, axis=(0, 2, 3), keepdims=True) for of in (np.mean, np.var))
    expected = (exact - mean) / np.sqrt(variance + 1e-5)
    found = unpack(b.tops[0], shape, NHWC, case.block)
    assert np.abs(found - expected).max() <= 1e-4  # the mean itself is a float: 6e-5 between two of them
    np.testing.assert_allclose(b.saved["variance"], variance.reshape(-1), rtol=1e-6)


def test_without_numba_onednn_normalises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    loops.compiled.cache_clear()
    graph = build(followed("Scale", "ReLU"), (2, 16, 5, 5))
    assert "onednn" in FormCase(make_batch_norm, graph, NHWC, low=0.1).check().variant
    graph = build(followed("Scale", "Eltwise"), (2, 16, 5, 5), (2, 16, 5, 5))
    assert FormCase(make_batch_norm, graph, NHWC).form is None


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
