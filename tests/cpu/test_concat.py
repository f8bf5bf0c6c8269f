"""Concat and Slice on oneDNN against the layers' own meaning."""

from __future__ import annotations

import pytest

from netc.backends.cpu.concat import make_parts
from tests.cpu.form_case import BLOCKED, LAYOUTS, NHWC, FormCase, build


def concat(bottoms: int, options: str = "") -> str:
    names = " ".join(f'bottom: "x{i}"' for i in range(bottoms))
    return f'layer {{ name: "c" type: "Concat" {names} top: "y" concat_param {{ {options} }} }}'


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [(16, 32, 16), (3, 8), (5,)])
def test_concat_of_channels(channels: tuple[int, ...], layout: str) -> None:
    shapes = [(2, number, 4, 3) for number in channels]
    FormCase(make_parts, build(concat(len(shapes)), *shapes), layout).check()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [0, 2, 3])
def test_concat_along_other_axes(axis: int, layout: str) -> None:
    layers = concat(2, f"axis: {axis}")
    FormCase(make_parts, build(layers, (2, 5, 4, 3), (2, 5, 4, 3)), layout).check()


def test_concat_of_matrices() -> None:
    FormCase(make_parts, build(concat(2), (3, 5), (3, 2)), "plain").check()


def test_concat_writes_the_gradients_that_are_wanted() -> None:
    graph = build(concat(2), (2, 16, 4, 3), (2, 16, 4, 3))
    FormCase(make_parts, graph, NHWC, wanted=[False, True]).check()


def test_blocks_that_do_not_fill_a_part_lie_channels_last() -> None:
    form = FormCase(make_parts, build(concat(2), (2, 5, 4, 3), (2, 3, 4, 3)), BLOCKED).check()
    assert form.top_layouts == (NHWC,)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", ["slice_point: 16", "slice_point: 5", "axis: 2 slice_point: 1"])
@pytest.mark.parametrize("given", [[True, True], [False, True]])
def test_slice(options: str, given: list[bool], layout: str) -> None:
    layers = f'layer {{ type: "Slice" bottom: "x0" top: "y" top: "z" slice_param {{ {options} }} }}'
    FormCase(make_parts, build(layers, (2, 24, 4, 3)), layout, given=given).check()
