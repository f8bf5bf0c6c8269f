"""Sums over all cells of each channel, whether a channel's cells or a cell's channels lie side by side."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cuda.convolution.channel_sum import Relu, channel_sum_floats, sum_channels
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.launching.channels_last import LANES, Columns
from netc.backends.cuda.launching.elementwise import THREADS
from tests.cuda.arrays import get, put, room
from tests.cuda.one_chain import drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

# Rows below and above what a block takes at a time, in one share and several; channels of one tile and more.
ROWS_AND_CHANNELS = [
    (1, 1), (1030, 1), (255, 3), (2050, 4), (130, 5), (63, 31), (260, 33), (129, 64), (33, 132), (17, 260),
]  # fmt: skip


@pytest.mark.parametrize("skew", [0, 4])
@pytest.mark.parametrize(("rows", "channels"), ROWS_AND_CHANNELS)
def test_channels_side_by_side(checked: EmulatedDevice, rows: int, channels: int, skew: int) -> None:
    checked.order, checked.seed = "random", 3
    dy = drawn(rows, channels)
    dbias = put(checked, np.ones(channels, np.float32))
    floats = channel_sum_floats(checked, rows, channels, 1)
    workspace = room(checked, floats) if floats else None
    memory = put(checked, dy, skew=skew)
    sum_channels(checked, (rows, channels, 1), memory, dbias, workspace=workspace)()
    np.testing.assert_allclose(get(checked, dbias), 1 + dy.sum(axis=0, dtype=np.float64), atol=2e-4)


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize(("rows", "channels"), ROWS_AND_CHANNELS)
def test_a_relu_goes_backward_on_the_way(
    checked: EmulatedDevice, rows: int, channels: int, learns: bool
) -> None:
    y, dy = drawn(rows, channels), drawn(rows, channels, seed=1)
    memory, dbias = put(checked, dy), put(checked, np.ones(channels, np.float32)) if learns else None
    floats = channel_sum_floats(checked, rows, channels, 1)
    workspace = room(checked, floats) if floats else None
    relu = Relu(put(checked, y), memory, 0.25)
    sum_channels(checked, (rows, channels, 1), memory, dbias, relu, workspace)()
    masked = dy * np.where(y > 0, np.float32(1), np.float32(0.25))
    np.testing.assert_array_equal(get(checked, memory, dy.shape), masked)
    if dbias is not None:
        np.testing.assert_allclose(get(checked, dbias), 1 + masked.sum(axis=0, dtype=np.float64), atol=2e-4)


def test_there_are_several_shares_where_there_are_rows_for_them(fast: EmulatedDevice) -> None:
    few, many = (channel_sum_floats(fast, rows, 4, 1) for rows in (255, 1 << 16))
    assert few == 0
    assert many > 4


def test_few_threads_are_idle_and_lines_are_whole() -> None:
    for channels in range(1, 600):
        for pack in (1, 4):
            columns = Columns.of(channels, pack)
            packs = channels // columns.pack
            assert columns.pack == (pack if channels % pack == 0 else 1)
            assert columns.lanes in LANES
            assert columns.lanes * columns.lines == THREADS
            assert 0 <= columns.tiles * columns.lanes - packs < min(8, max(packs, 1))
