"""Elementwise layers on oneDNN against the layers' own meaning."""

from __future__ import annotations

import pytest

from netc.backends.cpu.activation import ACTIVATIONS, make_activation
from tests.cpu.form_case import BLOCKED, LAYOUTS, FormCase, build


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("top", ["x0", "y"])
@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (2, 16, 3, 3), (4, 7), (3, 2, 5)])
@pytest.mark.parametrize("type_", ACTIVATIONS)
def test_activation(type_: str, shape: tuple[int, ...], top: str, layout: str) -> None:
    layers = f'layer {{ name: "a" type: "{type_}" bottom: "x0" top: "{top}" }}'
    case = FormCase(make_activation, build(layers, shape), layout)
    if type_ == "Sigmoid" and layout == BLOCKED and len(shape) == 4 and shape[1] % case.block:
        # Of zeros it makes halves, where padding must stay zero: oneDNN has no fast primitive for that.
        assert case.form is None
    else:
        case.check()


@pytest.mark.parametrize("slope", [0.25, -0.5])
def test_leaky_relu(slope: float) -> None:
    layers = f'layer {{ type: "ReLU" bottom: "x0" top: "y" relu_param {{ negative_slope: {slope} }} }}'
    FormCase(make_activation, build(layers, (2, 9, 4, 3)), "blocked").check()
