"""Local response normalisation on the device agrees with the layer, across channels and within them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.layers import lrn
from netc.backends.form import NHWC, PLAIN, Mode
from tests.cuda.arrays import get, put, room
from tests.cuda.one_chain import OneChain, chain_of, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

# Planes of packs and odd ones; fewer channels than a window; several parts of the channels; several blocks.
SHAPES = {
    "packs": (2, 7, 4, 6),
    "odd": (2, 7, 3, 3),
    "one cell": (1, 1, 1, 1),
    "parts": (1, 70, 4, 3),
    "blocks": (3, 5, 31, 30),
}
OPTIONS = {"usual": "", "strong": "alpha: 0.3 beta: 0.6 k: 2", "no k": "alpha: 1 k: 0"}


def text(size: int, options: str) -> str:
    return (
        'layer { name: "n" type: "LRN" bottom: "x0" top: "y" '
        f"lrn_param {{ local_size: {size} {options} }} }}"
    )


def check(
    device: EmulatedDevice,
    size: int,
    options: str,
    shape: tuple[int, ...],
    layout: str = PLAIN,
    skew: int = 0,
) -> None:
    one = OneChain(device, lrn.FORMS, text(size, options), 3 * drawn(*shape), layout=layout, skew=skew)
    assert one.form.top_layouts == [layout]
    one.check(rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [3, 5, 7, 9])
def test_windows_across_channels(fast: EmulatedDevice, size: int, shape: str, options: str) -> None:
    check(fast, size, OPTIONS[options], SHAPES[shape])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 3, 5])
def test_windows_within_channels(fast: EmulatedDevice, size: int, shape: str, options: str) -> None:
    check(fast, size, f"norm_region: WITHIN_CHANNEL {OPTIONS[options]}", SHAPES[shape])


# Cells of one pack or channel, of fewer than a window, of more than a block; cells that blocks share.
LAST_SHAPES = {
    "one cell": (1, 1, 1, 1),
    "one channel": (2, 1, 3, 3),
    "one pack": (2, 4, 5, 3),
    "packs": (2, 8, 9, 15),
    "odd": (2, 33, 4, 3),
    "a whole block of packs": (1, 8, 127, 1),
    "a whole block": (1, 63, 2, 2),
    "long": (2, 1100, 1, 2),
    "long and odd": (2, 531, 1, 2),
    "blocks": (3, 64, 7, 9),
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", LAST_SHAPES)
@pytest.mark.parametrize("size", [3, 5, 7, 9])
def test_windows_across_channels_side_by_side(
    fast: EmulatedDevice, size: int, shape: str, options: str
) -> None:
    check(fast, size, OPTIONS[options], LAST_SHAPES[shape], NHWC)


@pytest.mark.parametrize("shape", ["one channel", "packs", "odd", "blocks"])
def test_windows_within_channels_side_by_side(fast: EmulatedDevice, shape: str) -> None:
    for size in (1, 3, 5):
        check(fast, size, "norm_region: WITHIN_CHANNEL", LAST_SHAPES[shape], NHWC)


@pytest.mark.parametrize("region", ["", "norm_region: WITHIN_CHANNEL"])
@pytest.mark.parametrize("shape", ["one pack", "packs", "odd", "long"])
def test_windows_of_channels_side_by_side_in_check_mode(
    checked: EmulatedDevice, shape: str, region: str
) -> None:
    checked.order, checked.seed = "random", 2
    for size in (3, 5):
        check(checked, size, region, LAST_SHAPES[shape], NHWC)
    check(checked, 5, region, LAST_SHAPES[shape], NHWC, skew=4)


@pytest.mark.parametrize("region", ["", "norm_region: WITHIN_CHANNEL"])
@pytest.mark.parametrize("shape", ["packs", "odd", "parts"])
def test_windows_in_check_mode(checked: EmulatedDevice, shape: str, region: str) -> None:
    checked.order, checked.seed = "random", 2
    for size in (3, 5):
        check(checked, size, region, SHAPES[shape])


def test_a_small_value_beside_a_huge_one_keeps_its_own_window(fast: EmulatedDevice) -> None:
    x = np.full((1, 12, 1, 4), 0.5, np.float32)
    x[0, 2] = 1e6  # out of the window again from channel 5 on, and nothing of it may stay in the sum
    y = room(fast, x.size)
    rule = lrn.Rule(5, 1.0, 0.2, 0.75)
    lrn.across(fast, rule, x.shape, put(fast, x), y)()
    turned = room(fast, x.size)
    lrn.across(fast, rule, x.shape, put(fast, x.transpose(0, 2, 3, 1)), turned, NHWC)()
    np.testing.assert_array_equal(get(fast, turned, (1, 4, 12))[0].T, get(fast, y, x.shape)[0, :, 0])
    wanted = 0.5 * (1 + 0.2 * 0.25 * np.array([5, 5, 5, 5, 5, 4, 3])) ** -0.75
    np.testing.assert_allclose(get(fast, y, x.shape)[0, 5:, 0, 0], wanted, rtol=1e-6)


def test_memory_off_sixteen_bytes(fast: EmulatedDevice) -> None:
    x, rule = drawn(1, 6, 2, 4), lrn.Rule(5, 1.0, 0.2, 0.75)
    aligned, skewed = room(fast, x.size), room(fast, x.size, skew=4)
    lrn.across(fast, rule, x.shape, put(fast, x), aligned)()
    lrn.across(fast, rule, x.shape, put(fast, x, skew=4), skewed)()
    np.testing.assert_array_equal(get(fast, aligned), get(fast, skewed))


@pytest.mark.parametrize(("size", "region", "fits"), [(9, "", True), (11, "", False), (11, "WITHIN", True)])
def test_windows_of_many_channels_have_no_form(
    fast: EmulatedDevice, size: int, region: str, fits: bool
) -> None:
    options: Any = f"norm_region: {region}_CHANNEL" if region else ""
    form = lrn.make_lrn(chain_of(text(size, options), (1, 12, 3, 3)), Mode(), fast)
    assert (form is not None) is fits
