"""Depthwise convolutions agree with sums in double precision in all directions, for every kind of window."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netc.backends.cuda.convolution import depthwise
from netc.backends.cuda.convolution.shape import ConvShape
from netc.backends.cuda.emulator import EmulatedDevice
from tests.cuda.test_conv_kernels import check, shape_of

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]


def depthwise_shape(
    n: int, c: int, hw: tuple[int, int], rs: tuple[int, int], **window: tuple[int, int]
) -> ConvShape:
    return shape_of(n, c, hw, c, rs, c, **window)


WINDOWS = {
    "3x3": depthwise_shape(2, 3, (7, 6), (3, 3), pad=(1, 1)),
    "3x3 without a pad": depthwise_shape(2, 3, (8, 9), (3, 3)),
    "3x3 with a wide pad": depthwise_shape(1, 2, (3, 4), (3, 3), pad=(4, 3)),
    "3x3 with stride 2": depthwise_shape(2, 3, (9, 8), (3, 3), stride=(2, 2), pad=(1, 1)),
    "5x5": depthwise_shape(1, 3, (9, 7), (5, 5), pad=(2, 2)),
    "5x5 with stride 2": depthwise_shape(1, 3, (11, 12), (5, 5), stride=(2, 2), pad=(2, 1)),
    "7x3": depthwise_shape(1, 2, (9, 7), (7, 3), pad=(3, 1)),
    "1x1": depthwise_shape(2, 3, (4, 5), (1, 1)),
    "dilation": depthwise_shape(1, 3, (9, 10), (3, 3), dilation=(2, 3), pad=(2, 3)),
    "dilation and stride": depthwise_shape(
        1, 2, (11, 10), (3, 2), dilation=(2, 3), stride=(3, 2), pad=(2, 1)
    ),
    "strides that differ": depthwise_shape(1, 2, (9, 10), (3, 3), stride=(2, 1), pad=(1, 1)),
    "enlarging by 4": depthwise_shape(1, 3, (12, 16), (8, 8), stride=(4, 4), pad=(2, 2)),
    "many channels": depthwise_shape(1, 70, (3, 3), (3, 3), pad=(1, 1)),
    "one cell": depthwise_shape(3, 2, (3, 3), (3, 3)),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows(fast: EmulatedDevice, name: str) -> None:
    check(fast, WINDOWS[name], depthwise.candidate)
    check(fast, replace(WINDOWS[name], n=1), depthwise.candidate, slope=0.1, skew=4)


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_in_check_mode(checked: EmulatedDevice, name: str) -> None:
    checked.order, checked.seed = "random", 3
    check(checked, WINDOWS[name], depthwise.candidate, slope=0.0)


@pytest.mark.parametrize("rs", [(3, 3), (5, 5), (2, 6)])
def test_filters_whose_cells_are_shared_out(fast: EmulatedDevice, rs: tuple[int, int]) -> None:
    shape = depthwise_shape(3, 2, (70, 61), rs, pad=(1, 1))
    assert depthwise.candidate("backward_weights", fast, shape).floats > shape.weight_count
    check(fast, shape, depthwise.candidate)
