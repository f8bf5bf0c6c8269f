"""`-math bf16` on the CPU: products of rounded factors against the layers' own meaning on rounded arrays."""

from __future__ import annotations

import logging
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.backends.cpu import CpuBackend, bf16
from netc.backends.cpu.conv import make_convolution
from netc.backends.cpu.conv_bn import make_convolution_batch_norm
from netc.backends.cpu.deconv import make_deconvolution
from netc.backends.cpu.dense import make_inner_product
from netc.backends.form import Form, Maker, Mode
from netc.backends.selection import select_forms
from netc.errors import NetcError
from netc.layer import Buffers
from netc.proto import netc_pb2 as pb
from netc.schema.net import read_net
from netc.tools.sketch import Request, sketch
from tests.cpu import form_case
from tests.cpu.form_case import LAYOUTS, NHWC, PLAIN, FormCase, aligned, allocate, build, engine

Array = np.ndarray[Any, Any]
MODELS = Path(__file__).parents[2] / "models"
PRODUCTS = ("Convolution", "DepthwiseConvolution", "Deconvolution", "InnerProduct")
RELU = 'layer { name: "r" type: "ReLU" bottom: "y" top: "y" }\n'
NORMALISED = """
layer { name: "n" type: "BatchNorm" bottom: "y" top: "z" }
layer { name: "s" type: "Scale" bottom: "z" top: "z" scale_param { bias_term: true } }
layer { name: "r" type: "ReLU" bottom: "z" top: "z" }
"""
CONVOLUTIONS = {
    "images": ((2, 3, 11, 9), "num_output: 16 kernel_size: 5 stride: 2"),
    "one channel": ((2, 1, 12, 12), "num_output: 20 kernel_size: 5"),
    "3 x 3": ((2, 16, 9, 8), "num_output: 32 kernel_size: 3 pad: 1"),
    "LeNet's second": ((2, 20, 12, 12), "num_output: 50 kernel_size: 5"),
    "1 x 1": ((2, 16, 6, 5), "num_output: 24 kernel_size: 1"),
    "1 x 1 with a stride": ((2, 16, 7, 8), "num_output: 16 kernel_size: 1 stride: 2"),
    "stride": ((2, 8, 10, 12), "num_output: 8 kernel_size: 3 stride: 2"),
    "dilation": ((2, 16, 12, 11), "num_output: 16 kernel_size: 3 dilation: 2"),
    "groups": ((2, 16, 9, 9), "num_output: 32 kernel_size: 3 group: 2"),
    "a group for each channel": ((2, 16, 9, 9), "num_output: 16 kernel_size: 3 group: 16"),
    "no bias": ((2, 16, 8, 8), "num_output: 16 kernel_size: 3 bias_term: false"),
}
DECONVOLUTIONS = {
    "twice as large": ((2, 8, 5, 4), "num_output: 8 kernel_size: 4 stride: 2 pad: 1"),
    "groups": ((2, 8, 5, 5), "num_output: 16 kernel_size: 3 group: 2"),
}
INNER_PRODUCTS = {
    "matrix": ((5, 7), "num_output: 3"),
    "image": ((4, 3, 5, 6), "num_output: 10"),
    "one row": ((1, 33), "num_output: 17"),
    "transposed": ((4, 3, 2, 2), "num_output: 5 transpose: true"),
    "no bias": ((4, 9), "num_output: 5 bias_term: false"),
    "axis 2": ((2, 3, 4, 5), "num_output: 6 axis: 2"),
    "many weights, few rows": ((5, 259), "num_output: 1030"),
}


def rounded(array: Array) -> Array:
    """The nearest bfloat16, the even one of two, found among both neighbours in double precision."""
    below = (array.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    with np.errstate(all="ignore"):
        bits = below.view(np.uint32) + np.uint32(0x10000)
        above = bits.view(np.float32).astype(np.float64)
        above = np.where(np.isinf(above), np.copysign(2.0**128, above), above)
        exact = array.astype(np.float64)
        down, up = np.abs(exact - below), np.abs(above - exact)
        odd = below.view(np.uint32) & np.uint32(0x10000) != 0
        found = np.where((up < down) | ((up == down) & odd), bits.view(np.float32), below)
    return np.where(np.isfinite(array), found, array).astype(np.float32)


def on_rounded_factors(method: Callable[..., None]) -> Callable[..., None]:
    """A layer's forward or backward on copies of what it multiplies."""

    def run(xp: Any, b: Buffers) -> None:
        def copies(arrays: Any) -> list[Array]:
            return [rounded(np.ascontiguousarray(array)) for array in arrays]

        params = [*copies(b.params[:1]), *b.params[1:]]
        method(xp, replace(b, bottoms=copies(b.bottoms), params=params, top_grads=copies(b.top_grads)))

    return run


def bf16_case(
    make: Maker, layers: str, shape: tuple[int, ...], layout: str, phase: int = pb.TRAIN, **options: Any
) -> FormCase:
    """A chain in bf16, held to its layers with rounded factors."""

    def make_in_bf16(nodes: Any, mode: Mode, opened: Any) -> Form | None:
        return make(nodes, replace(mode, math="bf16"), opened)

    case = FormCase(make_in_bf16, build(layers, shape, phase=phase), layout, **options)
    for node in case.nodes:
        if node.type in PRODUCTS:
            node.layer.forward = on_rounded_factors(node.layer.forward)
            node.layer.backward = on_rounded_factors(node.layer.backward)
    return case


def layer(type_: str, options: str, field: str, more: str = "") -> str:
    return f'layer {{ name: "l" type: "{type_}" bottom: "x0" top: "y" {field} {{ {options} }} }}\n{more}'


def conv(options: str, more: str = "", type_: str = "Convolution") -> str:
    return layer(type_, options, "convolution_param", more)


def dense(options: str, more: str = "") -> str:
    return layer("InnerProduct", options, "inner_product_param", more)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("geometry", CONVOLUTIONS)
def test_convolution_multiplies_rounded_factors(geometry: str, layout: str) -> None:
    shape, options = CONVOLUTIONS[geometry]
    assert "bf16" in bf16_case(make_convolution, conv(options, RELU), shape, layout).check().variant


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_the_first_convolution(layout: str) -> None:
    layers = conv("num_output: 16 kernel_size: 5 stride: 2", RELU)
    bf16_case(make_convolution, layers, (2, 3, 15, 15), layout, wanted=[False], fresh=True).check()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("geometry", DECONVOLUTIONS)
def test_deconvolution_multiplies_rounded_factors(geometry: str, layout: str) -> None:
    shape, options = DECONVOLUTIONS[geometry]
    layers = conv(options, type_="Deconvolution")
    assert "bf16" in bf16_case(make_deconvolution, layers, shape, layout).check().variant


@pytest.mark.parametrize("more", ["", RELU])
@pytest.mark.parametrize("case", INNER_PRODUCTS)
def test_inner_product_multiplies_rounded_factors(case: str, more: str) -> None:
    shape, options = INNER_PRODUCTS[case]
    for fresh in (False, True):
        form = bf16_case(make_inner_product, dense(options, more), shape, PLAIN, fresh=fresh).check()
        assert "bf16" in form.variant


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_normalised_convolution_multiplies_rounded_factors(
    layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient that the normalisation gives differs in its last bits, and may then be rounded to the
    other neighbour."""
    monkeypatch.setattr(form_case, "TOLERANCE", 1e-3)
    layers = conv("num_output: 16 kernel_size: 3 pad: 1 bias_term: false", NORMALISED)
    form = bf16_case(make_convolution_batch_norm, layers, (4, 16, 9, 8), layout, low=0.1).check()
    assert "bf16" in form.variant


@pytest.mark.parametrize("holds", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_given_statistics_scale_what_was_multiplied_but_not_the_filters(layout: str, holds: bool) -> None:
    """Folded filters would be rounded to other numbers than those that were trained."""
    layers = conv("num_output: 16 kernel_size: 3", NORMALISED)
    options = {"backward": False, "phase": pb.TEST, "low": 0.1}
    case = bf16_case(make_convolution_batch_norm, layers, (2, 16, 9, 8), layout, **options)
    assert type(case.check()).__name__ == "ScaledConvolutionForm"
    mode = Mode(backward=False, holds=holds, layout=layout, math="bf16")
    form = make_convolution_batch_norm(case.nodes, mode, engine())
    assert type(form).__name__ == "ScaledConvolutionForm"


@pytest.mark.parametrize("make", [make_convolution, make_inner_product])
def test_inference(make: Maker) -> None:
    layers = (
        dense("num_output: 9") if make is make_inner_product else conv("num_output: 16 kernel_size: 3", RELU)
    )
    bf16_case(make, layers, (1, 8, 9, 9), PLAIN, backward=False).check()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("make", [make_convolution, make_inner_product])
def test_weights_packed_once_are_rounded_once(make: Maker, layout: str) -> None:
    options = "num_output: 16 bias_term: false"
    layers = dense(options) if make is make_inner_product else conv(f"{options} kernel_size: 3")
    shape = (1, 8, 3, 3)
    case = bf16_case(make, layers, shape, layout, backward=False)
    mode = Mode(backward=False, holds=True, layout=layout, math="bf16")
    form = make(case.nodes, mode, engine())
    assert form is not None
    bottom = form_case.pack(case.draw(shape), (form.bottom_layouts or [PLAIN])[0], case.block)
    top = aligned(form_case.pack(np.zeros(form.outputs[0].shape, np.float32), PLAIN, case.block))
    weight = case.params[0]
    b = Buffers([aligned(bottom)], [top], [weight], workspace=allocate(form.forward_workspace))
    prepare, forward = form.prepare(b), form.forward(b)
    assert prepare is not None
    prepare()
    forward()
    first = top.copy()
    expected = np.sum(
        rounded(form_case.unpack(bottom, shape, (form.bottom_layouts or [PLAIN])[0], case.block)).reshape(
            1, -1
        )
        * rounded(weight).reshape(16, -1),
        axis=1,
    )
    np.testing.assert_allclose(np.sort(first.ravel()), np.sort(expected), rtol=1e-4, atol=1e-5)
    weight *= 2
    forward()
    np.testing.assert_array_equal(top, first)
    prepare()
    forward()
    np.testing.assert_array_equal(top, 2 * first)


@pytest.mark.parametrize("name", ["alexnet", "googlenet", "resnet50", "mobilenet"])
def test_all_products_of_a_net_are_bf16s(name: str) -> None:
    engine()
    parsed = read_net(MODELS / name / "train_val.prototxt")
    graph = sketch(parsed, Request(pb.TRAIN, batch=2)).graph
    mode = Mode(fresh=True, layout=NHWC, math="bf16")
    forms = select_forms(graph, CpuBackend("bf16"), mode, fuse=True)
    products = [form for form in forms if form.node.type in PRODUCTS]
    assert products
    assert [form for form in products if "bf16" not in form.variant] == []


def test_a_processor_that_multiplies_bf16_does_so() -> None:
    """In one form of each kind, in both directions."""
    if not bf16.multiplies_bf16(engine()):
        pytest.skip("this processor does not multiply bfloat16")
    for make, layers, shape in (
        (make_convolution, conv("num_output: 32 kernel_size: 3 pad: 1", RELU), (2, 32, 8, 8)),
        (make_inner_product, dense("num_output: 32"), (16, 64)),
    ):
        form = bf16_case(make, layers, shape, NHWC).check()
        assert form.variant.startswith("onednn bf16 ")
        routines = (form.forward_routine, form.backward_routine)
        assert not any(type(step).__name__ == "RoundingStep" for each in routines for step in each.steps)


def test_where_onednn_refuses_bf16_the_factors_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As every processor without bf16 does: a form that expects it still gets the same numbers."""
    monkeypatch.setattr(bf16, "multiplies_bf16", lambda opened: True)
    for layout in LAYOUTS:
        shape, options = CONVOLUTIONS["3 x 3"]
        form = bf16_case(make_convolution, conv(options, RELU), shape, layout).check()
        assert "bf16" in form.variant


@pytest.fixture(params=["loop", "numpy"])
def round_floats(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Array, Array], Any]:
    """Rounding by the compiled loop, and as it is without numba."""
    if request.param == "loop":
        pytest.importorskip("numba", reason="the loop needs numba")
    else:

        def missing(module: str, name: str) -> None:
            raise ImportError("No module named 'numba'")

        monkeypatch.setattr(bf16, "compiled", missing)
    return bf16.round_floats


def samples() -> Array:
    """Ties to even from both sides, the borders of the range, zeros, subnormal and random numbers."""
    edges = [0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F7FFFFF, 0x7F7F7FFF, 0x7F7F8000, 0x7F800000]
    edges += [0, 1, 0x00008000, 0x00018000, 0x00007FFF, 0x007FFFFF, 0x00800000]
    bits = np.array([*edges, *(edge | 0x80000000 for edge in edges)], np.uint32)
    many = np.random.default_rng(1).integers(0, 1 << 32, 100_003, np.uint32)
    floats = np.concatenate([bits, many]).view(np.float32)
    return floats[~np.isnan(floats)]


@pytest.mark.parametrize("in_place", [False, True])
def test_floats_are_rounded_to_the_nearest_even(
    round_floats: Callable[[Array, Array], Any], in_place: bool
) -> None:
    values = samples()
    source = values.copy()
    target = source if in_place else np.full_like(source, 7)
    round_floats(source, target)()
    np.testing.assert_array_equal(target.view(np.uint32), rounded(values).view(np.uint32))


def test_every_nan_stays_one(round_floats: Callable[[Array, Array], Any]) -> None:
    bits = np.array([0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001, 0x7F80FFFF], np.uint32)
    target = np.zeros(len(bits), np.float32)
    round_floats(bits.view(np.float32), target)()
    assert np.isnan(target).all()
    np.testing.assert_array_equal(np.signbit(target), np.signbit(bits.view(np.float32)))
    assert not (target.view(np.uint32) & 0xFFFF).any()


def test_rounding_by_the_loop_allocates_nothing() -> None:
    pytest.importorskip("numba", reason="the loop needs numba")
    source, target = np.ones(1000, np.float32), np.zeros(1000, np.float32)
    run = bf16.round_floats(source, target)
    run()
    tracemalloc.start()
    for _ in range(100):
        run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2048


def test_without_onednn_bf16_is_refused_with_what_would_help() -> None:
    with pytest.raises(NetcError, match="computes in fp32 only") as caught:
        CpuBackend("bf16", fast=False)
    assert "pip install onednn" in str(caught.value)


@pytest.mark.parametrize("native", [False, True])
def test_it_is_said_once_where_factors_are_only_rounded(
    native: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine()
    monkeypatch.setattr("netc.backends.cpu.backend.multiplies_bf16", lambda opened: native)
    bf16.say_once_that_factors_are_rounded.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            CpuBackend("bf16")
    said = [record.message for record in caplog.records if "bfloat16" in record.message]
    assert len(said) == (0 if native else 1)
    assert native or "slower than -math fp32" in said[0]
