"""Concat and Slice agree with their layers for every axis, number of parts and alignment."""

from __future__ import annotations

import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.layers import concat
from tests.cuda.one_chain import OneChain, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

CONCAT, SLICE = concat.FORMS["Concat",], concat.FORMS["Slice",]


@pytest.mark.parametrize("skew", [0, 4])
@pytest.mark.parametrize(("axis", "shapes"), [
    (1, [(3, 4, 5, 2), (3, 8, 5, 2)]),
    (1, [(2, 1, 3), (2, 5, 3), (2, 2, 3)]),
    (0, [(1, 7), (4, 7)]),
    (2, [(5, 3, 1), (5, 3, 4)]),
])  # fmt: skip
def test_concat_along_every_axis(
    checked: EmulatedDevice, axis: int, shapes: list[tuple[int, ...]], skew: int
) -> None:
    checked.order, checked.seed = "random", 2
    text = f'type: "Concat" concat_param {{ axis: {axis} }}'
    bottoms = [drawn(*shape, seed=i) for i, shape in enumerate(shapes)]
    total = list(shapes[0])
    total[axis] = sum(shape[axis] for shape in shapes)
    OneChain(checked, CONCAT, text, *bottoms, skew=skew).check(drawn(*total, seed=9))


@pytest.mark.parametrize("parts", [1, 7, 8, 9, 20])
@pytest.mark.parametrize("width", [3, 8])
def test_many_parts_both_ways(fast: EmulatedDevice, parts: int, width: int) -> None:
    bottoms = [drawn(11, width * (1 + i % 3), 5, seed=i) for i in range(parts)]
    total = sum(x.shape[1] for x in bottoms)
    OneChain(fast, CONCAT, 'type: "Concat"', *bottoms).check(drawn(11, total, 5))
    tops = " ".join(f'top: "y{i}"' for i in range(parts))
    form = OneChain(fast, SLICE, f'type: "Slice" {tops}', drawn(11, width * parts, 5))
    form.check(*(drawn(11, width, 5, seed=i) for i in range(parts)))


def test_a_bottom_that_wants_no_gradient_is_left_out(checked: EmulatedDevice) -> None:
    bottoms = [drawn(2, 3, seed=i) for i in range(3)]
    form = OneChain(checked, CONCAT, 'type: "Concat"', *bottoms, wanted=[True, False, True])
    form.check(drawn(2, 9))


def test_a_top_without_a_gradient_gives_zeros(checked: EmulatedDevice) -> None:
    text = 'type: "Slice" top: "a" top: "b" top: "c" slice_param { slice_point: 1 slice_point: 4 }'
    form = OneChain(checked, SLICE, text, drawn(3, 6, 4))
    form.check(drawn(3, 1, 4), None, drawn(3, 2, 4, seed=1))
