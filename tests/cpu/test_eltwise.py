"""Sums on oneDNN against the layers' own meaning."""

from __future__ import annotations

import pytest

from netc.backends.cpu.eltwise import make_eltwise, make_split
from tests.cpu.form_case import LAYOUTS, NHWC, FormCase, build

SUMS = {
    "two": (2, ""),
    "three": (3, ""),
    "two, weighed": (2, "coeff: 1 coeff: -1"),
    "three, weighed": (3, "coeff: 0.5 coeff: 1 coeff: 2"),
}


def eltwise(bottoms: int, options: str, top: str = "y") -> str:
    names = " ".join(f'bottom: "x{i}"' for i in range(bottoms))
    return f'layer {{ name: "e" type: "Eltwise" {names} top: "{top}" eltwise_param {{ {options} }} }}\n'


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (2, 16, 3, 3), (4, 7)])
@pytest.mark.parametrize("case", SUMS)
def test_sum(case: str, shape: tuple[int, ...], layout: str) -> None:
    bottoms, options = SUMS[case]
    FormCase(make_eltwise, build(eltwise(bottoms, options), *[shape] * bottoms), layout).check()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("wanted", [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("case", SUMS)
def test_relu_rides_along(case: str, wanted: tuple[bool, bool], layout: str) -> None:
    bottoms, options = SUMS[case]
    relu = 'layer { name: "r" type: "ReLU" bottom: "y" top: "y" }'
    graph = build(eltwise(bottoms, options) + relu, *[(2, 16, 4, 3)] * bottoms)
    FormCase(make_eltwise, graph, layout, wanted=wanted).check()


@pytest.mark.parametrize(
    "layers",
    [eltwise(2, "operation: MAX"), eltwise(2, "operation: PROD"), eltwise(2, "", top="x0")],
    ids=["maximum", "product", "in place"],
)
def test_what_is_no_sum_stays_the_layers(layers: str) -> None:
    assert FormCase(make_eltwise, build(layers, (2, 3), (2, 3)), "plain").form is None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tops", [2, 3])
def test_split_adds_its_gradients(layout: str, tops: int) -> None:
    names = " ".join(f'top: "y{i}"' for i in range(tops))
    layers = f'layer {{ name: "s" type: "Split" bottom: "x0" {names} }}'
    FormCase(make_split, build(layers, (2, 9, 4, 3)), layout).check()


@pytest.mark.parametrize("given", [[True, False, True], [False, False, True], [False, False, False]])
def test_split_takes_missing_gradients_for_zeros(given: list[bool]) -> None:
    layers = 'layer { name: "s" type: "Split" bottom: "x0" top: "a" top: "b" top: "c" }'
    FormCase(make_split, build(layers, (2, 9, 4, 3)), NHWC, given=given).check()
