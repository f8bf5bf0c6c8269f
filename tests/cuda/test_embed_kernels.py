"""Embed and BatchReindex agree with their layers, however gradients are gathered; bad numbers give NaN."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.layers import embed
from netc.backends.cuda.layers.embed import embed_backward, embed_forward
from tests.cuda.arrays import get, put, room
from tests.cuda.one_chain import OneChain, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

EMBED = embed.FORMS["Embed",]


def check(device: EmulatedDevice, numbers: int, rows: int, columns: int, bias: bool, skew: int = 0) -> None:
    options = f"num_output: {columns} input_dim: {rows} bias_term: {str(bias).lower()}"
    index = np.random.default_rng(numbers).integers(0, rows, (numbers, 1)) + 0.25
    params = [drawn(rows, columns), drawn(columns, seed=1)][: 1 + bias]
    text = f'type: "Embed" embed_param {{ {options} }}'
    form = OneChain(device, EMBED, text, index, params=params, skew=skew)
    form.check(drawn(numbers, 1, columns, seed=2), atol=1e-5)


@pytest.mark.parametrize("skew", [0, 4])
@pytest.mark.parametrize("rows", [3, 50])
@pytest.mark.parametrize("columns", [5, 8])
def test_embed_in_check_mode(checked: EmulatedDevice, rows: int, columns: int, skew: int) -> None:
    checked.order, checked.seed = "random", 9
    check(checked, 20, rows, columns, bias=rows == 3, skew=skew)


@pytest.mark.parametrize(
    ("numbers", "rows", "columns"), [(1, 1, 1), (600, 5, 300), (257, 256, 4), (255, 1000, 257), (513, 600, 3)]
)
def test_several_blocks_of_numbers_and_columns(
    fast: EmulatedDevice, numbers: int, rows: int, columns: int
) -> None:
    check(fast, numbers, rows, columns, bias=True)


@pytest.mark.parametrize("rows", [2, 9])
def test_numbers_that_name_no_row(checked: EmulatedDevice, rows: int) -> None:
    index = np.array([0, -1, rows, np.nan, 1.5, -0.5, 0], np.float32)
    table, y = put(checked, drawn(rows, 3)), room(checked, 21)
    numbers = put(checked, index)
    embed_forward(checked, 7, rows, 3, numbers, table, None, y)()
    wanted = np.full((7, 3), np.nan, np.float32)
    wanted[[0, 4, 5, 6]] = drawn(rows, 3)[[0, 1, 0, 0]]
    np.testing.assert_array_equal(get(checked, y, (7, 3)), wanted)
    dtable = put(checked, np.zeros((rows, 3), np.float32))
    embed_backward(checked, 7, rows, 3, numbers, put(checked, np.ones((7, 3), np.float32)), dtable)()
    assert get(checked, dtable, (rows, 3))[:, 0].tolist() == [3, 1, *[0] * (rows - 2)]


@pytest.mark.parametrize("index", [[2, 0, 2, 2], [1], [0, 1, 2, 3, 4, 4, 0, 1]])
def test_rows_of_a_blob(device: EmulatedDevice, index: list[int]) -> None:
    make = embed.FORMS["BatchReindex",]
    form = OneChain(device, make, 'type: "BatchReindex"', drawn(5, 3, 4), index, wanted=[True, False])
    form.check(drawn(len(index), 3, 4, seed=1))
