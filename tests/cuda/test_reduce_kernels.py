"""Sums over channels, in one stage and in two, agree with NumPy; Reduction agrees with its layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.layers import reduce
from netc.backends.cuda.layers.reduce import Sums, sum_channels, sum_middle
from tests.cuda.arrays import get, put, room
from tests.cuda.one_chain import OneChain, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

EXPECTED: dict[str, Any] = {
    "dy": lambda dy, x: [dy],
    "|dy|": lambda dy, x: [np.abs(dy)],
    "dy^2": lambda dy, x: [dy * dy],
    "dy x": lambda dy, x: [dy * x],
    "dy x, dy": lambda dy, x: [dy * x, dy],
    "dy min(x, 0)": lambda dy, x: [dy * np.minimum(x, 0)],
}
# Outer, channels, inner: one of each, tails of warps and packs, several stretches, several blocks of columns.
SHAPES = [
    (1, 1, 1), (3, 5, 49), (2, 3, 1028), (9, 4, 1), (70, 130, 1), (33, 7, 5), (1, 2, 5001), (40, 33, 3),
    (1, 17, 36), (2, 8, 1030),
]  # fmt: skip


def check_sums(
    device: EmulatedDevice, term: str, shape: tuple[int, int, int], chunks: int, by_rows: bool, skew: int = 0
) -> None:
    """Holds the sums, times 0.5 and added to 1, to those in double precision."""
    dy, x = drawn(*shape), drawn(*shape, seed=1)
    sums = Sums(term, *shape, by_rows, chunks)
    shares = sums.workspace.get("shares")
    workspace = room(device, int(np.prod(shares.shape)), name="shares") if shares else None
    wanted = EXPECTED[term](dy.astype(np.float64), x.astype(np.float64))
    targets = [put(device, np.ones(shape[1], np.float32), f"sum {i}") for i in range(len(wanted))]
    reads_x = "x" in term
    memories = put(device, dy, "dy", skew), put(device, x, "x", skew) if reads_x else None
    run = sum_channels(device, sums, *memories, workspace, *targets, factor=0.5)
    assert run is not None
    run()
    for target, terms in zip(targets, wanted, strict=True):
        bound = 2e-7 * np.abs(terms).sum(axis=(0, 2)) * 4 + 1e-6
        assert (np.abs(get(device, target) - 1 - 0.5 * terms.sum(axis=(0, 2))) <= bound).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("by_rows", [True, False], ids=["rows", "columns"])
def test_every_shape_in_one_stage_and_in_two(
    fast: EmulatedDevice, shape: tuple[int, int, int], chunks: int, by_rows: bool
) -> None:
    for term in ("dy", "dy x", "dy x, dy"):
        check_sums(fast, term, shape, chunks, by_rows)


@pytest.mark.parametrize("term", EXPECTED)
@pytest.mark.parametrize("skew", [0, 4])
def test_every_term_in_check_mode(checked: EmulatedDevice, term: str, skew: int) -> None:
    checked.order, checked.seed = "random", 6
    check_sums(checked, term, (3, 5, 36), 2, True, skew)
    check_sums(checked, term, (1, 11, 36), 1, True, skew)
    if term not in ("|dy|", "dy^2"):
        check_sums(checked, term, (11, 4, 3), 2, False, skew)
        check_sums(checked, term, (11, 7, 1), 1, False, skew)


def test_a_plan_fills_the_device_but_no_more(fast: EmulatedDevice) -> None:
    assert Sums.plan(fast, "dy", 64, 500, 1).direct
    assert not Sums.plan(fast, "dy", 4096, 32, 1).direct
    assert Sums.plan(fast, "dy", 64, 3, 3136).chunks == 2
    assert Sums.plan(fast, "dy", 1, 1, 1).chunks == 1


@pytest.mark.parametrize(("outer", "middle", "inner"), [(1, 1, 1), (3, 7, 5), (2, 4, 300), (1, 9, 64)])
def test_the_middle_axis(device: EmulatedDevice, outer: int, middle: int, inner: int) -> None:
    x = drawn(outer, middle, inner)
    y = room(device, outer * inner)
    sum_middle(device, outer, middle, inner, put(device, x), y)()
    np.testing.assert_allclose(get(device, y, (outer, inner)), x.sum(axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("operation", ["SUM", "ASUM", "SUMSQ", "MEAN"])
@pytest.mark.parametrize(("shape", "axis"), [((3, 4, 5), 1), ((2, 3, 4), 2), ((5, 1030), 0), ((6, 7), -1)])
def test_reduction(device: EmulatedDevice, operation: str, shape: tuple[int, ...], axis: int) -> None:
    options = f"operation: {operation} axis: {axis} coeff: 1.5"
    text = f'type: "Reduction" reduction_param {{ {options} }}'
    form = OneChain(device, reduce.FORMS["Reduction",], text, drawn(*shape))
    form.check(drawn(*form.form.outputs[0].shape, seed=1), rtol=1e-5, atol=1e-5)
