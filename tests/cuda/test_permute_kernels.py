"""Permute and ShuffleChannel agree with their layers; copies use as few axes as they can, and packs."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.layers import permute
from netc.backends.cuda.layers.permute import Axis, copy_strided, merged, permuted
from netc.backends.form import NHWC, PLAIN, Mode
from tests.cuda.arrays import get, put, room
from tests.cuda.one_chain import OneChain, chain_of, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

PERMUTE, SHUFFLE = permute.FORMS["Permute",], permute.FORMS["ShuffleChannel",]


def text_of(order: tuple[int, ...]) -> str:
    return f'type: "Permute" permute_param {{ {" ".join(f"order: {axis}" for axis in order)} }}'


@pytest.mark.parametrize(("shape", "order"), [
    ((2, 3, 4, 5), (0, 2, 3, 1)),  # few channels: strided
    ((2, 33, 5, 7), (0, 2, 3, 1)),  # tiles, with tails both ways
    ((2, 8, 6, 12), (1, 0, 2, 3)),  # packs
    ((3, 9, 10, 11), (3, 2, 1, 0)),
    ((2, 3, 4, 5, 6), (4, 1, 3, 0, 2)),
    ((7, 1, 9), (2, 1, 0)),
])  # fmt: skip
def test_orders_in_check_mode(
    checked: EmulatedDevice, shape: tuple[int, ...], order: tuple[int, ...]
) -> None:
    checked.order, checked.seed = "random", 4
    top = tuple(shape[axis] for axis in order)
    OneChain(checked, PERMUTE, text_of(order), drawn(*shape)).check(drawn(*top, seed=1), rtol=0, atol=0)


@pytest.mark.parametrize("channels", [8, 31, 32, 33, 65, 130])
@pytest.mark.parametrize("cells", [(1, 31), (4, 8), (3, 11), (17, 5)])
def test_tiles_at_their_edges(fast: EmulatedDevice, channels: int, cells: tuple[int, int]) -> None:
    form = OneChain(fast, PERMUTE, text_of((0, 2, 3, 1)), drawn(3, channels, *cells))
    form.check(drawn(3, *cells, channels), rtol=0, atol=0)


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (0, 1, 3, 2), (1, 0, 2, 3), (3, 2, 1, 0)])
def test_orders_of_channels_side_by_side(device: EmulatedDevice, order: tuple[int, ...]) -> None:
    shape = (2, 8, 3, 5)
    form = OneChain(device, PERMUTE, text_of(order), drawn(*shape), layout=NHWC)
    assert (form.form.bottom_layouts, form.form.top_layouts) == ([NHWC], [PLAIN])
    form.check(drawn(*(shape[axis] for axis in order), seed=1), rtol=0, atol=0)


def test_channels_put_last_that_lie_last_already_are_one_copy() -> None:
    assert merged(permuted((2, 8, 3, 5), (0, 2, 3, 1), NHWC)) == [Axis(240, 1, 1)]


@pytest.mark.parametrize("layout", [PLAIN, NHWC])
@pytest.mark.parametrize(("shape", "group"), [((2, 6, 2, 4), 3), ((1, 12, 3, 3), 2), ((2, 33, 2, 1), 11)])
def test_shuffled_channels_keep_their_layout(
    device: EmulatedDevice, shape: tuple[int, ...], group: int, layout: str
) -> None:
    text = f'type: "ShuffleChannel" shuffle_channel_param {{ group: {group} }}'
    form = OneChain(device, SHUFFLE, text, drawn(*shape), layout=layout)
    assert (form.form.bottom_layouts, form.form.top_layouts) == ([layout], [layout])
    form.check(drawn(*shape, seed=1), rtol=0, atol=0)


@pytest.mark.parametrize("skew", [0, 4])
@pytest.mark.parametrize(("shape", "group"), [((2, 6, 2, 4), 3), ((1, 12, 3, 3), 2), ((5, 40), 4)])
def test_shuffled_channels(device: EmulatedDevice, shape: tuple[int, ...], group: int, skew: int) -> None:
    text = f'type: "ShuffleChannel" shuffle_channel_param {{ group: {group} }}'
    form = OneChain(device, SHUFFLE, text, drawn(*shape), skew=skew)
    form.check(drawn(*shape, seed=1), rtol=0, atol=0)


def test_axes_that_stay_together_are_one() -> None:
    shape = (2, 3, 4, 5)
    strides = permute.contiguous(shape)
    assert merged([Axis(n, s, s) for n, s in zip(shape, strides, strict=True)]) == [Axis(120, 1, 1)]
    assert merged([Axis(2, 60, 60), Axis(4, 5, 15), Axis(5, 1, 3), Axis(3, 20, 1)]) == [
        Axis(2, 60, 60),
        Axis(20, 1, 3),
        Axis(3, 20, 1),
    ]


def test_repeated_axes_and_gaps(checked: EmulatedDevice) -> None:
    x = drawn(4)
    y = put(checked, np.full((3, 9), 7, np.float32), "y")
    run = copy_strided(checked, [Axis(3, 0, 9), Axis(4, 1, 2)], put(checked, x, "x"), y)
    assert run is not None
    run()
    wanted = np.full((3, 9), 7, np.float32)
    wanted[:, :8:2] = x
    np.testing.assert_array_equal(get(checked, y, (3, 9)), wanted)


def test_too_many_axes_are_left_to_the_layer(fast: EmulatedDevice) -> None:
    shape = (2, 3, 2, 3, 2, 3)
    nodes = chain_of(text_of((5, 4, 3, 2, 1, 0)), shape)
    assert PERMUTE(nodes, Mode(), fast) is None
    axes = [Axis(2, 3**i, 4**i) for i in range(6)]
    assert copy_strided(fast, axes, room(fast, 1), room(fast, 1)) is None
