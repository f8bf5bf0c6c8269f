"""Softmax on oneDNN against the layer's own meaning."""

from __future__ import annotations

import pytest

from netc.backends.cpu.softmax import make_softmax
from tests.cpu.form_case import NHWC, FormCase, build


def softmax(axis: int, top: str = "y") -> str:
    return f'layer {{ type: "Softmax" bottom: "x0" top: "{top}" softmax_param {{ axis: {axis} }} }}'


@pytest.mark.parametrize("top", ["x0", "y"])
@pytest.mark.parametrize("shape", [(64, 10), (1, 1000), (3, 1)])
def test_classes(shape: tuple[int, int], top: str) -> None:
    FormCase(make_softmax, build(softmax(1, top), shape), "plain").check()


def test_a_class_for_each_pixel() -> None:
    FormCase(make_softmax, build(softmax(1), (2, 21, 5, 6)), NHWC).check()
