"""InnerProduct on oneDNN's matrix product against the layer's own meaning."""

from __future__ import annotations

import pytest

from netc.backends.cpu.dense import make_inner_product
from tests.cpu.form_case import LAYOUTS, FormCase, build

SHAPES = {
    "matrix": ((5, 7), "num_output: 3"),
    "image": ((4, 3, 5, 6), "num_output: 10"),
    "one row": ((1, 33), "num_output: 17"),
    "one output": ((6, 4), "num_output: 1"),
    "transposed": ((4, 3, 2, 2), "num_output: 5 transpose: true"),
    "no bias": ((4, 9), "num_output: 5 bias_term: false"),
    "axis 2": ((2, 3, 4, 5), "num_output: 6 axis: 2"),
    "axis 0": ((3, 4), "num_output: 6 axis: 0"),
    "more rows than outputs": ((200, 16), "num_output: 4"),
}


def dense(options: str, more: str = "") -> str:
    layer = f'name: "d" type: "InnerProduct" bottom: "x0" top: "y" inner_product_param {{ {options} }}'
    return f"layer {{ {layer} }}\n{more}"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", SHAPES)
def test_inner_product(case: str, layout: str) -> None:
    shape, options = SHAPES[case]
    FormCase(make_inner_product, build(dense(options), shape), layout).check()


@pytest.mark.parametrize("top", ["y", "z"])
@pytest.mark.parametrize("slope", [0, 0.25])
@pytest.mark.parametrize("options", ["num_output: 9", "num_output: 9 transpose: true bias_term: false"])
def test_relu_rides_along(top: str, slope: float, options: str) -> None:
    relu = f'name: "r" type: "ReLU" bottom: "y" top: "{top}" relu_param {{ negative_slope: {slope} }}'
    layers = dense(options, f"layer {{ {relu} }}")
    FormCase(make_inner_product, build(layers, (6, 8)), "plain").check()


def test_inference() -> None:
    FormCase(make_inner_product, build(dense("num_output: 9"), (1, 8)), "plain", backward=False).check()


@pytest.mark.parametrize("options", ["num_output: 9", "num_output: 9 bias_term: false transpose: true"])
def test_fresh_gradients_are_written(options: str) -> None:
    graph = build(dense(options), (6, 8))
    assert FormCase(make_inner_product, graph, "plain", fresh=True).check().writes_fresh
