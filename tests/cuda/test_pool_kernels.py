"""Pooling on the device agrees with the layer: every window, every method, forward and backward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.layers import pool
from netc.backends.cuda.layers.pool import PoolForm, PoolShape
from netc.backends.form import Mode
from netc.proto import netc_pb2 as pb
from tests.cuda.arrays import get, put, room
from tests.cuda.one_chain import OneChain, chain_of, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

# One for each kernel and stride that code is made for, then what only the general code takes.
WINDOWS = {
    "2x2/2": "kernel_size: 2 stride: 2",
    "3x3/2": "kernel_size: 3 stride: 2",
    "3x3/1": "kernel_size: 3 stride: 1 pad: 1",
    "padded": "kernel_size: 3 stride: 2 pad: 1",
    "oblong": "kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 2 pad_h: 1 pad_w: 2",
    "apart": "kernel_size: 2 stride: 3",
    "wide": "kernel_h: 9 kernel_w: 8 stride: 2",
    "two bytes": "kernel_size: 17 stride: 4",
    "global": "global_pooling: true",
}


def chain(device: EmulatedDevice, options: str, x: Any, **more: Any) -> OneChain:
    text = f'layer {{ name: "pool" type: "Pooling" bottom: "x0" top: "y" pooling_param {{ {options} }} }}'
    return OneChain(device, pool.FORMS, text, x, **more)


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("window", WINDOWS)
def test_windows_in_check_mode(checked: EmulatedDevice, window: str, method: str) -> None:
    checked.order, checked.seed = "random", 5
    size = (2, 2, 18, 19) if window in ("wide", "two bytes") else (2, 3, 9, 7)
    chain(checked, f"pool: {method} {WINDOWS[window]}", drawn(*size)).check(rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("method", ["MAX", "AVE", "STOCHASTIC"])
@pytest.mark.parametrize("window", WINDOWS)
def test_planes_of_several_blocks_and_odd_sizes(fast: EmulatedDevice, window: str, method: str) -> None:
    if method == "STOCHASTIC" and "pad" in WINDOWS[window]:
        with pytest.raises(Exception, match="knows no padding"):
            chain(fast, f"pool: {method} {WINDOWS[window]}", drawn(1, 1, 9, 9))
        return
    for size in ((3, 5, 35, 37), (1, 70, 20, 17), (1, 1, 17, 17)):
        # Stochastic pooling needs values above 0.
        chain(fast, f"pool: {method} {WINDOWS[window]}", np.abs(drawn(*size))).check(rtol=2e-6, atol=2e-6)


def test_cells_that_are_not_larger_than_the_least_number_are_not_chosen(device: EmulatedDevice) -> None:
    x = np.full((1, 1, 4, 6), -np.inf, np.float32)
    x[0, 0, 0, 0], x[0, 0, 2, 2:4], x[0, 0, 0, 4] = np.nan, 3, -np.finfo(np.float32).max
    for options in ("kernel_size: 2 stride: 2", "global_pooling: true"):
        chain(device, f"pool: MAX {options}", x).check(rtol=2e-6, atol=2e-6)


def test_the_first_of_equal_cells_is_chosen(device: EmulatedDevice) -> None:
    x = np.ones((1, 2, 16, 17), np.float32)
    for options in ("kernel_size: 3 stride: 2", "kernel_size: 9 stride: 2"):
        chain(device, f"pool: MAX {options}", x).check(rtol=2e-6, atol=2e-6)


def test_places_of_the_maxima(device: EmulatedDevice) -> None:
    x = drawn(2, 3, 12, 11)
    x[0, 0] = -np.inf
    text = 'layer { name: "pool" type: "Pooling" bottom: "x0" top: "y" top: "places" pooling_param { %s } }'
    for options in ("kernel_size: 3 stride: 2", "kernel_size: 2 stride: 2", "global_pooling: true"):
        one = OneChain(device, pool.FORMS, text % options, x)
        one.check(rtol=2e-6, atol=2e-6)
        assert (one.forward()[1][0, 0] == -1).all()


def test_stochastic_pooling_draws_the_layer_s_own_numbers_and_goes_on(device: EmulatedDevice) -> None:
    one = chain(device, "pool: STOCHASTIC kernel_size: 3 stride: 2", np.abs(drawn(2, 3, 11, 9)))
    one.check(rtol=2e-6, atol=2e-6, passes=3)
    np.testing.assert_array_equal(one.values(one.buffers.states["draw"]), [3])


def test_stochastic_pooling_in_test_gives_the_expected_value(device: EmulatedDevice) -> None:
    x = np.abs(drawn(2, 3, 11, 9))
    x[0, 0] = 0
    chain(device, "pool: STOCHASTIC kernel_size: 3 stride: 2", x, phase=pb.TEST).check(rtol=2e-6, atol=2e-6)


def test_without_backward_nothing_is_saved(fast: EmulatedDevice) -> None:
    one = chain(fast, "pool: MAX kernel_size: 3 stride: 2", drawn(1, 2, 8, 8), mode=Mode(backward=False))
    assert not one.form.saved
    np.testing.assert_array_equal(one.forward()[0], one.expected_forward()[0])


@pytest.mark.parametrize(("kernel", "kind"), [(15, np.uint8), (16, np.uint16), (255, np.uint16), (256, None)])
def test_places_take_the_fewest_bytes(kernel: int, kind: Any) -> None:
    shape = PoolShape(1, (300, 300), (1, 1), (kernel, kernel), (1, 1), (0, 0))
    assert shape.chosen == kind


def test_windows_whose_places_do_not_fit_have_no_form(fast: EmulatedDevice) -> None:
    text = 'layer { name: "p" type: "Pooling" bottom: "x0" top: "y" pooling_param { global_pooling: true } }'
    assert pool.make_pool(chain_of(text, (1, 1, 256, 256)), Mode(), fast) is None
    assert isinstance(pool.make_pool(chain_of(text, (1, 1, 256, 255)), Mode(), fast), PoolForm)


def test_several_rounds_of_the_grid(fast: EmulatedDevice) -> None:
    x = drawn(1, 9, 64, 65)
    shape = PoolShape(9, (64, 65), (63, 64), (2, 2), (1, 1), (0, 0))
    y, chosen, dx = room(fast, 9 * 63 * 64), room(fast, 9 * 63 * 64, np.uint8), room(fast, x.size)
    pool.forward(fast, "maximum", shape, put(fast, x), y, chosen)()
    windows = np.lib.stride_tricks.sliding_window_view(x, (2, 2), axis=(2, 3)).reshape(9, 63, 64, 4)
    np.testing.assert_array_equal(get(fast, y, (9, 63, 64)), windows.max(axis=3))
    np.testing.assert_array_equal(get(fast, chosen, (9, 63, 64), np.uint8), windows.argmax(axis=3) + 1)
    pool.backward(fast, shape, put(fast, np.ones((9, 63, 64), np.float32)), chosen, dx)()
    assert get(fast, dx).sum() == 9 * 63 * 64
