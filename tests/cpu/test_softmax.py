"""Softmax on oneDNN against the layer's own meaning."""

from __future__ import annotations

import pytest

from netc.backends.cpu.softmax import make_softmax
from tests.cpu.form_case import BLOCKED, NHWC, FormCase, build


def softmax(axis: int, top: str = "y") -> str:
    return f'layer {{ type: "Softmax" bottom: "x0" top: "{top}" softmax_param {{ axis: {axis} }} }}'


@pytest.mark.parametrize("top", ["x0", "y"])
@pytest.mark.parametrize("shape", [(64, 10), (1, 1000), (3, 1)])
def test_classes(shape: tuple[int, int], top: str) -> None:
    FormCase(make_softmax, build(softmax(1, top), shape), "plain", backward=False).check()


@pytest.mark.parametrize("layout", [NHWC, BLOCKED])
def test_a_class_for_each_pixel(layout: str) -> None:
    FormCase(make_softmax, build(softmax(1), (2, 24, 5, 6)), layout, backward=False).check()


def test_gradient() -> None:
    case = FormCase(make_softmax, build(softmax(1), (64, 10)), "plain")
    if case.form is None:
        pytest.skip("oneDNN has no fast gradient of softmax for this processor")
    case.check()
