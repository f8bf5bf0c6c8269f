"""Filters that see a channel each: their gradient by a loop of our own, against the layer's own meaning."""

from __future__ import annotations

import sys

import pytest

from netc.backends.cpu import loops
from netc.backends.cpu.conv import make_convolution
from netc.backends.cpu.filters import FiltersForm
from netc.backends.form import Form
from tests.cpu.form_case import NHWC, FormCase, build
from tests.cpu.test_update import team_of

pytest.importorskip("numba", reason="the loop needs numba (netc[cpu])")

SHAPES = [(1, 8, 2, 2), (2, 16, 7, 9), (3, 24, 12, 5), (2, 8, 1, 3), (1, 40, 33, 32)]


def filters(channels: int, options: str = "", type_: str = "Convolution") -> str:
    options = f"num_output: {channels} group: {channels} kernel_size: 3 pad: 1 bias_term: false {options}"
    layer = f'name: "c" type: "{type_}" bottom: "x0" top: "y" convolution_param {{ {options} }}'
    return f"layer {{ {layer} }}"


def variants(form: Form) -> list[str]:
    assert isinstance(form, FiltersForm)
    return [part.variant for part in form.backward_parts]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("type_", ["Convolution", "DepthwiseConvolution"])
def test_gradient_of_the_filters(shape: tuple[int, ...], stride: int, fresh: bool, type_: str) -> None:
    graph = build(filters(shape[1], f"stride: {stride}", type_), shape)
    form = FormCase(make_convolution, graph, NHWC, fresh=fresh).check()
    assert variants(form) == ["depthwise"]


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_number_of_threads(shape: tuple[int, ...], threads: int) -> None:
    with team_of(threads):
        FormCase(make_convolution, build(filters(shape[1]), shape), NHWC).check()


@pytest.mark.parametrize("options", ["stride: 3", "dilation: 2", "bias_term: true"])
def test_the_rest_is_left_to_onednn(options: str) -> None:
    layers = filters(16, options).replace(
        "bias_term: false ", "" if "bias" in options else "bias_term: false "
    )
    form = FormCase(make_convolution, build(layers, (2, 16, 9, 9)), NHWC).check()
    assert variants(form) == []


def test_channels_that_fill_no_vectors_are_left_to_onednn() -> None:
    form = FormCase(make_convolution, build(filters(12), (2, 12, 9, 9)), NHWC).check()
    assert variants(form) == []


def test_without_numba_onednn_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    loops.compiled.cache_clear()
    assert variants(FormCase(make_convolution, build(filters(16), (2, 16, 8, 8)), NHWC).check()) == []
