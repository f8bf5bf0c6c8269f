"""Convolution on tensor cores agrees with NumPy in every direction, variant and math mode."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cuda import conv_mma
from netc.backends.cuda.conv_mma import KERNELS, TILES, WGMMA_KERNELS, WGMMA_TILES, Tile
from netc.backends.cuda.conv_shape import ConvShape
from netc.backends.cuda.emulated_device import EmulatedDevice
from netc.backends.cuda.memory import Memory
from netc.errors import NetcError
from tests.cuda.arrays import get, put, room
from tests.cuda.convolutions import arrays_of, convolve, filter_gradient, input_gradient, shape_of
from tests.cuda.rounding import ROUNDED

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]


def workspace(device: EmulatedDevice, floats: int) -> Memory | None:
    return room(device, floats, name="workspace") if floats else None


def check_close(got: np.ndarray, wanted: np.ndarray, terms: int) -> None:
    """Factors are rounded alike on both sides, so that only the fp32 sums of `terms` products differ."""
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * max(1.0, np.sqrt(terms)) * 8)


def check_forward(
    device: EmulatedDevice, tile: Tile, shape: ConvShape, slope: float = 1.0, bias: bool = False
) -> None:
    x, w, _ = arrays_of(shape)
    shifts = np.linspace(-1, 1, shape.k, dtype=np.float32)
    y = room(device, shape.y_count, name="y")
    floats = conv_mma.forward_floats(tile.math, device, shape)
    conv_mma.forward(
        tile.math, device, shape, put(device, x, "x"), put(device, w, "w"), y,
        put(device, shifts, "bias") if bias else None, slope, workspace(device, floats), tile,
    )()  # fmt: skip
    rounded = ROUNDED[tile.math]
    wanted = convolve(shape, rounded(x), rounded(w)) + (shifts[:, None, None] if bias else 0)
    wanted = np.where(wanted > 0, wanted, slope * wanted)
    check_close(get(device, y, wanted.shape), wanted, shape.group_c * shape.taps)


def check_backward_data(
    device: EmulatedDevice, tile: Tile, shape: ConvShape, slope: float = 1.0, bias: bool = False
) -> None:
    _, w, dy = arrays_of(shape)
    shifts = np.linspace(-1, 1, shape.c, dtype=np.float32)
    dx = room(device, shape.x_count, name="dx")
    floats = conv_mma.backward_data_floats(tile.math, device, shape)
    conv_mma.backward_data(
        tile.math, device, shape, put(device, dy, "dy"), put(device, w, "w"), dx,
        put(device, shifts, "bias") if bias else None, slope, workspace(device, floats), tile,
    )()  # fmt: skip
    rounded = ROUNDED[tile.math]
    wanted = input_gradient(shape, rounded(dy), rounded(w)) + (shifts[:, None, None] if bias else 0)
    wanted = np.where(wanted > 0, wanted, slope * wanted)
    check_close(get(device, dx, wanted.shape), wanted, shape.group_k * shape.taps)


def check_backward_weights(device: EmulatedDevice, tile: Tile, shape: ConvShape, shares: int = 1) -> None:
    x, w, dy = arrays_of(shape)
    dw = put(device, w, "dw")  # what the gradient is added to
    sums = workspace(device, shares * shape.weight_count if shares > 1 else 0)
    conv_mma.backward_weights(
        tile.math, device, shape, put(device, x, "x"), put(device, dy, "dy"), dw, sums, tile, shares
    )()
    rounded = ROUNDED[tile.math]
    wanted = w + filter_gradient(shape, rounded(x), rounded(dy))
    check_close(get(device, dw, wanted.shape), wanted, shape.n * shape.p * shape.q)


def check_all(device: EmulatedDevice, tile: Tile, shape: ConvShape) -> None:
    check_forward(device, tile, shape)
    check_backward_data(device, tile, shape)
    check_backward_weights(device, tile, shape)


def tile_name(tile: Tile) -> str:
    return f"{tile.math}-{'wgmma' if tile.wgmma else f'{tile.m}x{tile.n}'}"


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


@pytest.mark.parametrize("math", KERNELS)
@pytest.mark.parametrize("name", ODD_SHAPES)
def test_odd_shapes_in_all_directions(fast: EmulatedDevice, math: str, name: str) -> None:
    tile = next(tile for tile in reversed(TILES) if tile.math == math)
    check_all(fast, tile, ODD_SHAPES[name])
    wgmma = next(tile for tile in WGMMA_TILES if tile.math == math)
    check_forward(fast, wgmma, ODD_SHAPES[name])
    check_backward_data(fast, wgmma, ODD_SHAPES[name])


@pytest.mark.parametrize("tile", [*TILES, *WGMMA_TILES], ids=tile_name)
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


@pytest.mark.parametrize("tile", [*TILES, *WGMMA_TILES], ids=tile_name)
def test_bias_and_relu_in_the_same_launch(fast: EmulatedDevice, tile: Tile) -> None:
    shape = shape_of(2, 6, 5, 7, 5, (3, 3), (2, 1), (1, 1))
    check_forward(fast, tile, shape, slope=0.0, bias=True)
    check_forward(fast, tile, shape, slope=0.25)
    check_backward_data(fast, tile, shape, slope=0.5, bias=True)


@pytest.mark.parametrize("tile", [*TILES, *WGMMA_TILES], ids=tile_name)
def test_every_variant_in_check_mode(checked: EmulatedDevice, tile: Tile) -> None:
    checked.order, checked.seed = "random", 5
    check_forward(checked, tile, shape_of(2, 2 * tile.step + 3, 4, 5, 5, (2, 2), pad=(1, 0)), bias=True)
    check_forward(checked, tile, shape_of(1, 3, 9, 8, 6, (3, 3), (2, 1), (1, 1)))  # channels and taps as one
    check_backward_data(checked, tile, shape_of(1, 5, 7, 6, tile.step + 3, (3, 3), (2, 1), (1, 1)))
    if not tile.wgmma:
        check_backward_weights(checked, tile, shape_of(2, 3, 6, 7, 5, (3, 2), (1, 2), (1, 1)))
        check_backward_weights(checked, tile, shape_of(1, 4, 9, 9, 6, (2, 2), group=2), shares=3)


@pytest.mark.parametrize("shares", [2, 3, 50])
def test_shares_of_the_filters_gradient_add_up(fast: EmulatedDevice, shares: int) -> None:
    """Also where a share has no cells at all."""
    for tile in TILES:
        check_backward_weights(fast, tile, shape_of(3, 4, 8, 9, 6, pad=(1, 1), group=2), shares)


@pytest.mark.parametrize("math", KERNELS)
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
        sums = room(fast, 5 * shape.weight_count)
        conv_mma.backward_weights("tf32", fast, shape, put(fast, x), put(fast, dy), dw, sums, shares=5)()
        results.append(get(fast, dw))
    np.testing.assert_array_equal(*results)


def test_the_table_of_kernels_runs_what_it_plans(fast: EmulatedDevice) -> None:
    """Each direction with the workspace that it asks for, as the forms of convolution use it."""
    shape = shape_of(2, 5, 7, 6, 4, pad=(1, 1))
    x, w, dy = arrays_of(shape)
    x_memory, w_memory, dy_memory = (put(fast, array) for array in (x, w, dy))
    for kernels in (*KERNELS.values(), *WGMMA_KERNELS.values()):
        y, dx, dw = room(fast, shape.y_count), room(fast, shape.x_count), put(fast, np.zeros_like(w))
        kernels.forward(
            fast, shape, x_memory, w_memory, y, workspace=workspace(fast, kernels.forward_floats(fast, shape))
        )()
        kernels.backward_data(
            fast, shape, dy_memory, w_memory, dx,
            workspace=workspace(fast, kernels.backward_data_floats(fast, shape)),
        )()  # fmt: skip
        kernels.backward_weights(
            fast, shape, x_memory, dy_memory, dw,
            workspace=workspace(fast, kernels.backward_weights_floats(fast, shape)),
        )()  # fmt: skip
        for memory, wanted in (
            (y, convolve(shape, x, w)),
            (dx, input_gradient(shape, dy, w)),
            (dw, filter_gradient(shape, x, dy)),
        ):
            np.testing.assert_allclose(get(fast, memory, wanted.shape), wanted, rtol=0, atol=0.2)


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
    with pytest.raises(NetcError, match="too little workspace"):
        conv_mma.forward("tf32", fast, shape, x, w, room(fast, shape.y_count), workspace=room(fast, 3))


def test_an_unknown_math_mode_is_refused() -> None:
    with pytest.raises(NetcError, match="math mode"):
        conv_mma.choose_tile("int4", 1, 1, 1, 1)
