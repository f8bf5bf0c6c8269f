"""LRN on oneDNN and in loops of our own, against the layer's meaning."""

from __future__ import annotations

import sys

import pytest

from netc.backends.cpu.lrn import LoopForm, PrimitiveForm, make_lrn
from tests.cpu.form_case import BLOCKED, NHWC, PLAIN, FormCase, build

OPTIONS = {
    "AlexNet's": "local_size: 5 alpha: 0.5 beta: 0.75",
    "a window of three": "local_size: 3 alpha: 0.5 beta: 0.75 k: 2",
    "no neighbours": "local_size: 1 alpha: 0.5",
    "a window wider than the blob": "local_size: 41 alpha: 2",
}


def lrn(options: str) -> str:
    return f'layer {{ name: "l" type: "LRN" bottom: "x0" top: "y" lrn_param {{ {options} }} }}'


@pytest.mark.parametrize("layout", [NHWC, BLOCKED])
@pytest.mark.parametrize("shape", [(2, 32, 5, 6), (3, 5, 4, 3), (1, 16, 1, 1)])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_lrn(options: str, shape: tuple[int, ...], layout: str) -> None:
    pytest.importorskip("numba", reason="numba is not installed")
    FormCase(make_lrn, build(lrn(options), shape), layout).check()


def test_what_onednn_does_fast_it_does() -> None:
    layers = lrn("local_size: 5 alpha: 0.5")
    form = FormCase(make_lrn, build(layers, (2, 32, 5, 6)), BLOCKED, backward=False).check()
    assert isinstance(form, PrimitiveForm)


def test_inference_in_loops() -> None:
    pytest.importorskip("numba", reason="numba is not installed")
    layers = lrn("local_size: 3 alpha: 0.5")
    form = FormCase(make_lrn, build(layers, (2, 5, 5, 6)), NHWC, backward=False).check()
    assert isinstance(form, LoopForm)


@pytest.mark.parametrize(
    ("options", "layout"),
    [("alpha: 0.5", PLAIN), ("beta: 0.6", NHWC), ("norm_region: WITHIN_CHANNEL local_size: 9", NHWC)],
    ids=["plain values", "another power", "a wide window within channels"],
)
def test_the_rest_stays_the_layers(options: str, layout: str) -> None:
    assert FormCase(make_lrn, build(lrn(options), (2, 5, 9, 9)), layout).form is None


def test_without_numba_the_layer_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    from netc.backends.cpu import loops

    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setitem(sys.modules, "netc.backends.cpu.loops.lrn", None)
    loops.compiled.cache_clear()
    assert FormCase(make_lrn, build(lrn("local_size: 3"), (2, 5, 5, 6)), NHWC).form is None
