"""Pooling of values whose channels lie side by side agrees with the layer, in every window and method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.layers import pool
from netc.backends.cuda.layers.pool import PoolShape
from netc.backends.form import NHWC
from netc.proto import netc_pb2 as pb
from tests.cuda.arrays import get, put, room
from tests.cuda.one_chain import OneChain, drawn
from tests.cuda.test_pool_kernels import WINDOWS

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]


def chain(device: EmulatedDevice, options: str, x: Any, **more: Any) -> OneChain:
    tops = more.pop("tops", 'top: "y"')
    text = f'layer {{ name: "pool" type: "Pooling" bottom: "x0" {tops} pooling_param {{ {options} }} }}'
    return OneChain(device, pool.FORMS, text, x, layout=NHWC, **more)


def size_of(window: str, channels: int) -> tuple[int, ...]:
    return (2, channels, 18, 19) if window in ("wide", "two bytes") else (2, channels, 9, 7)


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("window", WINDOWS)
def test_windows_in_check_mode(checked: EmulatedDevice, window: str, method: str) -> None:
    checked.order, checked.seed = "random", 5
    for channels in (3, 8):
        one = chain(checked, f"pool: {method} {WINDOWS[window]}", drawn(*size_of(window, channels)))
        one.check(rtol=2e-6, atol=2e-6)


METHODS = [
    (method, window)
    for method in ("MAX", "AVE", "STOCHASTIC")
    for window in WINDOWS
    if method != "STOCHASTIC" or "pad" not in WINDOWS[window]
]


@pytest.mark.parametrize("channels", [1, 5, 31, 33, 64, 132])
@pytest.mark.parametrize(("method", "window"), METHODS)
def test_channels_in_packs_and_odd_ones(
    fast: EmulatedDevice, window: str, method: str, channels: int
) -> None:
    # Stochastic pooling needs values above 0.
    x = np.abs(drawn(*size_of(window, channels)))
    one = chain(fast, f"pool: {method} {WINDOWS[window]}", x)
    assert one.form.bottom_layouts == one.form.top_layouts == [NHWC]
    one.check(rtol=2e-6, atol=2e-6)


def test_large_windows_are_shared_unless_there_are_many() -> None:
    device = EmulatedDevice()
    few, many = ((planes, (7, 7), (1, 1), (7, 7), (1, 1), (0, 0), 64) for planes in (64, 8192))
    assert PoolShape(*few).is_large(device, np.uint8, 4)
    assert not PoolShape(*many).is_large(device, np.uint8, 4)
    assert PoolShape(*many).is_large(device, np.uint16, 1)  # a thread has no code for so many cells


def test_many_windows_are_a_thread_s_each(fast: EmulatedDevice) -> None:
    x = drawn(1, 8192, 5, 5)
    for method in ("MAX", "AVE"):
        chain(fast, f"pool: {method} global_pooling: true", x).check(rtol=2e-6, atol=2e-6)


def test_cells_that_are_not_larger_than_the_least_number_are_not_chosen(device: EmulatedDevice) -> None:
    x = np.full((1, 4, 4, 6), -np.inf, np.float32)
    x[0, 1, 0, 0], x[0, 1, 2, 2:4], x[0, 2, 0, 4] = np.nan, 3, -np.finfo(np.float32).max
    for options in ("kernel_size: 2 stride: 2", "global_pooling: true"):
        chain(device, f"pool: MAX {options}", x).check(rtol=2e-6, atol=2e-6)


def test_the_first_of_equal_cells_is_chosen(device: EmulatedDevice) -> None:
    x = np.ones((1, 4, 16, 17), np.float32)
    for options in ("kernel_size: 3 stride: 2", "kernel_size: 9 stride: 2"):
        chain(device, f"pool: MAX {options}", x).check(rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("channels", [3, 4])
def test_places_of_the_maxima_are_those_in_the_plane(device: EmulatedDevice, channels: int) -> None:
    x = drawn(2, channels, 12, 11)
    x[0, 0] = -np.inf
    for options in ("kernel_size: 3 stride: 2", "kernel_size: 2 stride: 2", "global_pooling: true"):
        one = chain(device, options, x, tops='top: "y" top: "places"')
        one.check(rtol=2e-6, atol=2e-6)
        assert (one.forward()[1][0, 0] == -1).all()


def test_stochastic_pooling_draws_the_layer_s_own_numbers_and_goes_on(device: EmulatedDevice) -> None:
    one = chain(device, "pool: STOCHASTIC kernel_size: 3 stride: 2", np.abs(drawn(2, 4, 11, 9)))
    one.check(rtol=2e-6, atol=2e-6, passes=3)
    np.testing.assert_array_equal(one.values(one.buffers.states["draw"]), [3])


def test_stochastic_pooling_in_test_gives_the_expected_value(device: EmulatedDevice) -> None:
    x = np.abs(drawn(2, 4, 11, 9))
    x[0, 0] = 0
    for options in ("kernel_size: 3 stride: 2", "kernel_size: 6"):
        one = chain(device, f"pool: STOCHASTIC {options}", x, phase=pb.TEST)
        one.check(rtol=2e-6, atol=2e-6)


def test_memory_off_sixteen_bytes(fast: EmulatedDevice) -> None:
    chain(fast, "pool: MAX kernel_size: 3 stride: 2", drawn(2, 8, 9, 7), skew=4).check(rtol=2e-6, atol=2e-6)
    chain(fast, "pool: AVE global_pooling: true", drawn(2, 8, 9, 7), skew=4).check(rtol=2e-6, atol=2e-6)


def test_several_rounds_of_shared_windows(checked: EmulatedDevice) -> None:
    checked.order, checked.seed = "random", 7
    chain(checked, "pool: MAX global_pooling: true", drawn(1, 601, 4, 4)).check(rtol=2e-6, atol=2e-6)


def test_several_rounds_of_the_grid(fast: EmulatedDevice) -> None:
    x = drawn(1, 33, 34, 20)  # (N, H, W, C)
    shape = PoolShape(20, (33, 34), (32, 33), (2, 2), (1, 1), (0, 0), channels=20)
    sizes = (32, 33, 20)
    y, chosen, dx = room(fast, 32 * 33 * 20), room(fast, 32 * 33 * 20, np.uint8), room(fast, x.size)
    pool.forward(fast, "maximum", shape, put(fast, x), y, chosen)()
    windows = np.lib.stride_tricks.sliding_window_view(x[0], (2, 2), axis=(0, 1)).reshape(*sizes, 4)
    np.testing.assert_array_equal(get(fast, y, sizes), windows.max(axis=3))
    np.testing.assert_array_equal(get(fast, chosen, sizes, np.uint8), windows.argmax(axis=3) + 1)
    pool.backward(fast, shape, put(fast, np.ones(sizes, np.float32)), chosen, dx)()
    assert get(fast, dx).sum() == 32 * 33 * 20
