"""Softmax on the device agrees with the layer, however its classes are shared among threads."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.layers import softmax
from netc.backends.cuda.layers.softmax import Scores
from netc.backends.form import NHWC
from tests.cuda.arrays import get, put, room
from tests.cuda.one_chain import OneChain, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

# Shape and axis: a thread, a warp or a block to each place.
SHAPES = {
    "few classes": ((9, 7), 1, 1),
    "rows": ((5, 100), 1, 32),
    "last axis": ((3, 4, 40), -1, 32),
    "first axis": ((33, 5), 0, 32),
    "long rows": ((3, 2500), 1, 256),
    "images": ((2, 21, 47, 45), 1, 1),
    "small images": ((2, 21, 3, 3), 1, 32),
    "one class": ((4, 1), 1, 1),
}


def text(axis: int, top: str) -> str:
    return f'layer {{ name: "s" type: "Softmax" bottom: "x0" top: "{top}" softmax_param {{ axis: {axis} }} }}'


@pytest.mark.parametrize("top", ["y", "x0"])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_and_in_place(fast: EmulatedDevice, name: str, top: str) -> None:
    shape, axis, lanes = SHAPES[name]
    one = OneChain(fast, softmax.FORMS, text(axis, top), 3 * drawn(*shape))
    assert one.form.scores.lanes == lanes  # type: ignore[attr-defined]
    one.check(rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("top", ["y", "x0"])
@pytest.mark.parametrize(("axis", "lanes"), [(0, 1), (1, 32), (2, 1), (-1, 1)])
def test_channels_side_by_side(device: EmulatedDevice, axis: int, lanes: int, top: str) -> None:
    x = 3 * drawn(2, 21, 7, 5)
    one = OneChain(device, softmax.FORMS, text(axis, top), x, layout=NHWC)
    assert one.form.top_layouts == [NHWC]
    one.check(rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["few classes", "rows", "long rows", "small images"])
def test_shapes_in_check_mode(checked: EmulatedDevice, name: str) -> None:
    checked.order, checked.seed = "random", 2
    shape, axis, _ = SHAPES[name]
    for top in ("y", "x0"):
        OneChain(checked, softmax.FORMS, text(axis, top), 3 * drawn(*shape)).check(atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("classes", [3, 40, 2100])
def test_large_scores_neither_overflow_nor_vanish(fast: EmulatedDevice, classes: int) -> None:
    x = np.full((3, classes), -1e4, np.float32)
    x[0, -1], x[1], x[2, 1:] = 1e4, 3e38, -np.inf
    y = room(fast, x.size)
    softmax.forward(fast, Scores(3, classes, 1), put(fast, x), y)()
    wanted = np.zeros(x.shape, np.float32)
    wanted[0, -1], wanted[1], wanted[2, 0] = 1, 1 / classes, 1
    np.testing.assert_allclose(get(fast, y, x.shape), wanted, rtol=1e-5)


@pytest.mark.parametrize("classes", [3, 40, 2100])
def test_rows_of_infinities_and_nans_are_nan_as_in_the_layer(fast: EmulatedDevice, classes: int) -> None:
    x = np.zeros((3, classes), np.float32)
    x[0], x[1, 1], x[2, 2] = -np.inf, np.nan, np.inf
    one = OneChain(fast, softmax.FORMS, text(1, "y"), x)
    got, wanted = one.forward()[0], one.expected_forward()[0]
    np.testing.assert_array_equal(np.isnan(got).any(axis=1), [True, True, True])
    np.testing.assert_array_equal(np.isnan(wanted).any(axis=1), [True, True, True])
