"""Local response normalisation on the device agrees with the layer, across channels and within them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.backends.cuda import lrn
from netc.backends.cuda.emulated_device import EmulatedDevice
from netc.backends.form import Mode
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


def check(device: EmulatedDevice, size: int, options: str, shape: tuple[int, ...]) -> None:
    one = OneChain(device, lrn.FORMS, text(size, options), 3 * drawn(*shape))
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
