"""Convolution on tensor cores agrees with NumPy in every direction, variant and math mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.convolution import conv_mma
from netc.backends.cuda.convolution.conv_mma import (
    NUMBERS,
    TILES,
    Plan,
    Tile,
    filters_candidate,
    images_candidate,
)
from netc.backends.cuda.convolution.shape import ConvShape
from netc.backends.cuda.convolution.work import Filters, Images
from netc.backends.cuda.emulator import EmulatedDevice
from netc.errors import NetcError
from tests.cuda.arrays import get, put, room
from tests.cuda.convolutions import (
    arrays_of,
    check_close,
    convolve,
    filter_gradient,
    input_gradient,
    run_candidate,
    shape_of,
)
from tests.cuda.rounding import ROUNDED

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]


def check_images(
    device: EmulatedDevice,
    direction: str,
    tile: Tile,
    shape: ConvShape,
    slope: float = 1.0,
    bias: bool = False,
) -> None:
    x, w, dy = arrays_of(shape)
    rounded = ROUNDED[tile.math]
    if direction == "forward":
        source, wanted = x, convolve(shape, rounded(x), rounded(w))
    else:
        source, wanted = dy, input_gradient(shape, rounded(dy), rounded(w))
    shifts = np.linspace(-1, 1, wanted.shape[1], dtype=np.float32)
    wanted = wanted + (shifts[:, None, None] if bias else 0)
    wanted = np.where(wanted > 0, wanted, slope * wanted)
    target = room(device, wanted.size, name="target")
    shift = put(device, shifts, "bias") if bias else None
    work = Images(put(device, source, "source"), put(device, w, "w"), target, shift, slope)
    plan = Plan.of(direction, tile.math, shape)
    run_candidate(device, images_candidate(plan, tile), shape, work)
    check_close(get(device, target, wanted.shape), wanted, plan.packing.channels * plan.packing.taps)


def check_forward(device: EmulatedDevice, tile: Tile, shape: ConvShape, **after: Any) -> None:
    check_images(device, "forward", tile, shape, **after)


def check_backward_data(device: EmulatedDevice, tile: Tile, shape: ConvShape, **after: Any) -> None:
    check_images(device, "backward_data", tile, shape, **after)


def check_backward_weights(device: EmulatedDevice, tile: Tile, shape: ConvShape, shares: int = 1) -> None:
    x, w, dy = arrays_of(shape)
    dw = put(device, w, "dw")  # what the gradient is added to
    work = Filters(put(device, x, "x"), put(device, dy, "dy"), dw)
    run_candidate(device, filters_candidate(shape, tile, shares), shape, work)
    rounded = ROUNDED[tile.math]
    wanted = w + filter_gradient(shape, rounded(x), rounded(dy))
    check_close(get(device, dw, wanted.shape), wanted, shape.n * shape.p * shape.q)


def check_all(device: EmulatedDevice, tile: Tile, shape: ConvShape) -> None:
    check_forward(device, tile, shape)
    check_backward_data(device, tile, shape)
    check_backward_weights(device, tile, shape)


def tile_name(tile: Tile) -> str:
    return f"{tile.math}-{tile.m}x{tile.n}"


# Strides with phases of different taps, of none (a 1x1 filter), and dilations that share factors with them.
ODD_SHAPES = {
    "plain": shape_of(2, 5, 7, 6, 4, pad=(1, 1)),
    "pointwise": shape_of(2, 17, 3, 5, 6, (1, 1)),
    "pointwise stride": shape_of(2, 9, 7, 7, 5, (1, 1), (2, 2)),
    "stride": shape_of(1, 4, 11, 10, 6, (3, 5), (2, 3), (1, 2)),
    "stride over taps": shape_of(1, 3, 9, 13, 4, (2, 2), (3, 4)),
    "dilation": shape_of(1, 4, 12, 11, 5, (3, 2), (1, 1), (2, 1), (2, 3)),
    "stride and dilation": shape_of(2, 3, 13, 14, 4, (3, 3), (2, 4), (2, 3), (2, 2)),
    "groups": shape_of(2, 6, 5, 5, 9, (3, 3), (1, 1), (1, 1), group=3),
    "one cell": shape_of(1, 3, 4, 3, 2, (4, 3)),
    "first layer": shape_of(1, 3, 19, 17, 7, (7, 5), (2, 2), (3, 2)),
    "wide pad": shape_of(1, 2, 3, 3, 3, (3, 3), (1, 1), (4, 3)),
}


@pytest.mark.parametrize("math", NUMBERS)
@pytest.mark.parametrize("name", ODD_SHAPES)
def test_odd_shapes_in_all_directions(fast: EmulatedDevice, math: str, name: str) -> None:
    tile = next(tile for tile in reversed(TILES) if tile.math == math)
    check_all(fast, tile, ODD_SHAPES[name])


@pytest.mark.parametrize("tile", TILES, ids=tile_name)
def test_images_at_the_edges_of_tiles(fast: EmulatedDevice, tile: Tile) -> None:
    """Rows, columns and steps of exactly a tile, one less and one more, and of several."""
    cells = tile.n // 8
    check_forward(fast, tile, shape_of(2, tile.step, 4, cells, tile.m, (1, 1)))
    check_forward(fast, tile, shape_of(1, 2 * tile.step + 1, 1, tile.n - 1, tile.m + 1, (1, 1)))
    check_forward(fast, tile, shape_of(3, tile.step - 1, 5, cells + 2, 2 * tile.m + 3, (3, 1), pad=(1, 0)))
    check_backward_data(fast, tile, shape_of(2, tile.m, 4, cells, tile.step, (1, 1)))
    check_backward_data(fast, tile, shape_of(1, tile.m + 1, 1, tile.n - 1, 2 * tile.step + 1, (1, 1)))
    check_backward_data(fast, tile, shape_of(2, tile.m - 1, 9, cells, tile.step + 2, (3, 3), (2, 1), (1, 1)))


@pytest.mark.parametrize("tile", TILES, ids=tile_name)
def test_filters_at_the_edges_of_tiles(fast: EmulatedDevice, tile: Tile) -> None:
    check_backward_weights(fast, tile, shape_of(1, tile.n, 4, tile.step, tile.m, (1, 1)))
    check_backward_weights(fast, tile, shape_of(2, tile.n // 9 + 1, 5, tile.step - 1, tile.m + 1, pad=(1, 1)))
    check_backward_weights(fast, tile, shape_of(3, 2 * tile.n + 1, 3, 5, tile.m - 1, (1, 1)))


@pytest.mark.parametrize("tile", TILES, ids=tile_name)
def test_bias_and_relu_in_the_same_launch(fast: EmulatedDevice, tile: Tile) -> None:
    shape = shape_of(2, 6, 5, 7, 5, (3, 3), (2, 1), (1, 1))
    check_forward(fast, tile, shape, slope=0.0, bias=True)
    check_forward(fast, tile, shape, slope=0.25)
    check_backward_data(fast, tile, shape, slope=0.5, bias=True)


@pytest.mark.parametrize("tile", TILES, ids=tile_name)
def test_every_variant_in_check_mode(checked: EmulatedDevice, tile: Tile) -> None:
    checked.order, checked.seed = "random", 5
    check_forward(checked, tile, shape_of(2, 2 * tile.step + 3, 4, 5, 5, (2, 2), pad=(1, 0)), bias=True)
    check_forward(checked, tile, shape_of(1, 3, 9, 8, 6, (3, 3), (2, 1), (1, 1)))  # channels and taps as one
    check_backward_data(checked, tile, shape_of(1, 5, 7, 6, tile.step + 3, (3, 3), (2, 1), (1, 1)))
    check_backward_weights(checked, tile, shape_of(2, 3, 6, 7, 5, (3, 2), (1, 2), (1, 1)))
    check_backward_weights(checked, tile, shape_of(1, 4, 9, 9, 6, (2, 2), group=2), shares=3)


@pytest.mark.parametrize("shares", [2, 3, 50])
def test_shares_of_the_filters_gradient_add_up(fast: EmulatedDevice, shares: int) -> None:
    """Also where a share has no cells at all."""
    for tile in TILES:
        check_backward_weights(fast, tile, shape_of(3, 4, 8, 9, 6, pad=(1, 1), group=2), shares)


@pytest.mark.parametrize("math", NUMBERS)
def test_many_channels(fast: EmulatedDevice, math: str) -> None:
    shape = shape_of(1, 512, 3, 3, 256, pad=(1, 1))
    for tile in (tile for tile in TILES if tile.math == math):
        check_all(fast, tile, shape)


def test_the_same_run_gives_the_same_bits(fast: EmulatedDevice) -> None:
    shape = shape_of(4, 8, 9, 9, 8, pad=(1, 1))
    x, w, dy = arrays_of(shape)
    results = []
    for _ in range(2):
        dw = put(fast, w)
        candidate = filters_candidate(shape, TILES[1], shares=5)
        run_candidate(fast, candidate, shape, Filters(put(fast, x), put(fast, dy), dw))
        results.append(get(fast, dw))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("math", NUMBERS)
def test_every_candidate_runs_with_the_workspace_that_it_asks_for(fast: EmulatedDevice, math: str) -> None:
    shape = shape_of(2, 5, 7, 6, 4, pad=(1, 1))
    arrays = arrays_of(shape)
    x, w, dy = (put(fast, array) for array in arrays)
    y, dx, dw = room(fast, shape.y_count), room(fast, shape.x_count), put(fast, 0 * arrays[1])
    for direction, work, target, wanted in (
        ("forward", Images(x, w, y), y, convolve(shape, arrays[0], arrays[1])),
        ("backward_data", Images(dy, w, dx), dx, input_gradient(shape, arrays[2], arrays[1])),
        ("backward_weights", Filters(x, dy, dw), dw, filter_gradient(shape, arrays[0], arrays[2])),
    ):
        for candidate in conv_mma.candidates(direction, fast, shape, math):
            fast.fill(dw)
            run_candidate(fast, candidate, shape, work)
            np.testing.assert_allclose(get(fast, target, wanted.shape), wanted, rtol=0, atol=0.2)


def test_channels_and_taps_become_one_axis_in_first_layers() -> None:
    assert conv_mma.forward_packing("tf32", shape_of(1, 3, 224, 224, 64, (7, 7), (2, 2), (3, 3))).table
    assert not conv_mma.forward_packing("tf32", shape_of(1, 64, 56, 56, 64, pad=(1, 1))).table
    assert not conv_mma.forward_packing("tf32", shape_of(1, 3, 56, 56, 64, (1, 1))).table


def test_tiles_and_shares_are_chosen_to_occupy_the_device() -> None:
    assert conv_mma.choose_tile("bf16", 256, 128 * 56 * 56, 1, 132).m == 128
    assert conv_mma.choose_tile("bf16", 64, 128 * 56 * 56, 1, 132).m == 64
    assert conv_mma.choose_tile("bf16", 256, 49, 1, 132).m == 64
    shape = shape_of(128, 64, 56, 56, 64, pad=(1, 1))
    assert conv_mma.choose_shares(shape, TILES[1], 132) == 30  # nine blocks for the filters
    assert conv_mma.choose_shares(shape_of(1, 64, 4, 4, 64, pad=(1, 1)), TILES[1], 132) == 1


def test_too_little_workspace_is_refused(fast: EmulatedDevice) -> None:
    shape = shape_of(1, 5, 7, 6, 4)
    x, w, _ = (put(fast, array) for array in arrays_of(shape))
    work = Images(x, w, room(fast, shape.y_count), workspace=room(fast, 3))
    with pytest.raises(NetcError, match="too little workspace"):
        conv_mma.candidates("forward", fast, shape, "tf32")[0].bind(fast, shape, work)


def test_an_unknown_math_mode_is_refused() -> None:
    with pytest.raises(NetcError, match="math mode"):
        conv_mma.choose_tile("int4", 1, 1, 1, 1)
