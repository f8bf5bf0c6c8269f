"""Depthwise convolutions of channels side by side agree with sums in double precision in all directions, for
every kind of window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from netc.backends.cuda.convolution import depthwise
from netc.backends.cuda.convolution.shape import ConvShape
from netc.backends.cuda.convolution.work import Filters, Images
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.form import NHWC
from tests.cuda.arrays import get, put, room
from tests.cuda.test_conv_kernels import Case
from tests.cuda.test_depthwise_kernels import WINDOWS, depthwise_shape

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

MORE_WINDOWS = {
    "7x7": depthwise_shape(2, 3, (8, 6), (7, 7), pad=(3, 3)),
    "enlarging by 2": depthwise_shape(2, 3, (8, 9), (4, 4), stride=(2, 2), pad=(1, 1)),
    "a stride that leaves cells over": depthwise_shape(1, 3, (12, 10), (3, 3), stride=(2, 2)),
    "a pad beyond the stride": depthwise_shape(1, 3, (6, 5), (5, 5), stride=(2, 2), pad=(3, 4)),
    "too many weights to stage": depthwise_shape(1, 2, (17, 18), (15, 14), stride=(4, 4), pad=(2, 2)),
}
ALL = WINDOWS | MORE_WINDOWS


def check(
    device: EmulatedDevice, shape: ConvShape, slope: float = 1.0, skew: int = 0, tolerance: float = 2e-6
) -> None:
    """Compares all three directions; errors may grow with the square root of the number of terms."""
    case = Case(shape)
    x, dy = (put(device, array.transpose(0, 2, 3, 1), "images", skew) for array in (case.x, case.dy))
    w, bias, x_bias, dw = (put(device, array) for array in (case.w, case.bias, case.x_bias, case.dw))
    y, dx = (room(device, count, skew=skew) for count in (shape.y_count, shape.x_count))
    for direction, work in (
        ("forward", Images(x, w, y, bias, slope)),
        ("backward_data", Images(dy, w, dx, x_bias, slope)),
        ("backward_weights", Filters(x, dy, dw)),
    ):
        candidate = depthwise.candidate(direction, device, shape, NHWC)
        room_for = room(device, candidate.floats, name="workspace") if candidate.floats else None
        candidate.bind(device, shape, replace(work, workspace=room_for))()

    wanted_dx, wanted_dw = case.backward(slope)
    for name, memory, wanted, terms in (
        ("y", y, case.forward(slope).transpose(0, 2, 3, 1), shape.taps),
        ("dx", dx, wanted_dx.transpose(0, 2, 3, 1), shape.taps),
        ("dw", dw, wanted_dw, shape.n * shape.p * shape.q),
    ):
        error = np.abs(get(device, memory, wanted.shape) - wanted).max()
        assert error <= tolerance * 8 * np.sqrt(terms), (name, shape, error)


def of_channels(shape: ConvShape, channels: int) -> ConvShape:
    return replace(shape, c=channels, k=channels, group=channels)


@pytest.mark.parametrize("name", ALL)
def test_windows(fast: EmulatedDevice, name: str) -> None:
    for channels in (1, 6, 33, 132):  # no packs, packs of 2, several lines of them
        check(fast, of_channels(ALL[name], channels), slope=0.1)
    check(fast, of_channels(ALL[name], 12), skew=4)


@pytest.mark.parametrize("name", ALL)
def test_windows_in_check_mode(checked: EmulatedDevice, name: str) -> None:
    checked.order, checked.seed = "random", 3
    for channels in (3, 12, *([32] if name == "too many weights to stage" else [])):
        check(checked, of_channels(ALL[name], channels), slope=0.0)


@pytest.mark.parametrize("rs", [(3, 3), (5, 5), (2, 6)])
def test_filters_whose_cells_are_shared_out(fast: EmulatedDevice, rs: tuple[int, int]) -> None:
    shape = depthwise_shape(3, 36, (50, 41), rs, pad=(1, 1))
    assert depthwise.candidate("backward_weights", fast, shape, NHWC).floats > shape.weight_count
    check(fast, shape)
    check(fast, shape, skew=4)
