"""Convolution on tensor cores over channels last agrees with NumPy in every direction, variant and layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.convolution import conv_last, conv_last_images, conv_last_weights
from netc.backends.cuda.convolution.conv_last import STEP_PIECES, WGMMA_TILES, Plan, images_candidate, plans
from netc.backends.cuda.convolution.conv_last_filters import WGMMA_PIECES
from netc.backends.cuda.convolution.conv_last_images import NUMBERS, PIECE, Reading, readings
from netc.backends.cuda.convolution.conv_last_tile import Tile
from netc.backends.cuda.convolution.conv_last_weights import STEP, choose_shares, filters_candidate
from netc.backends.cuda.convolution.shape import PLAIN_SIDES, ConvShape, Layouts
from netc.backends.cuda.convolution.work import Filters, Images
from netc.backends.cuda.device import Memory
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.form import NHWC, PLAIN
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

LAST = Layouts(NHWC, NHWC)
ALL_LAYOUTS = [Layouts(*pair) for pair in product((NHWC, PLAIN), repeat=2)]
DIRECTIONS = ("forward", "backward_data")
IMAGE_TILES = [*conv_last.TILES, *WGMMA_TILES]


def without_twins(tiles: Sequence[Tile]) -> list[Tile]:
    """But for those of fp16, whose kernels are those of bf16 with other instructions."""
    return [tile for tile in tiles if tile.math != "fp16"]


def laid(images: np.ndarray, layout: str) -> np.ndarray:
    """As they lie in memory."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if layout == NHWC else images


def fetched(device: EmulatedDevice, memory: Memory, shape: Any, layout: str) -> np.ndarray:
    """Images of this shape (N, C, H, W)."""
    if layout == PLAIN:
        return get(device, memory, shape)
    n, c, h, w = shape
    return get(device, memory, (n, h, w, c)).transpose(0, 3, 1, 2)


def check_images(
    device: EmulatedDevice, plan: Plan, tile: Tile, slope: float = 1.0, bias: bool = False
) -> None:
    shape, rounded = plan.shape, ROUNDED[tile.math]
    x, w, dy = arrays_of(shape)
    if plan.backward:
        source, wanted = dy, input_gradient(shape, rounded(dy), rounded(w))
    else:
        source, wanted = x, convolve(shape, rounded(x), rounded(w))
    shifts = np.linspace(-1, 1, wanted.shape[1], dtype=np.float32)
    wanted = wanted + (shifts[:, None, None] if bias else 0)
    wanted = np.where(wanted > 0, wanted, slope * wanted)
    target = room(device, wanted.size, name="target")
    shift = put(device, shifts, "bias") if bias else None
    given = put(device, laid(source, plan.source.layout), "source")
    work = Images(given, put(device, w, "w"), target, shift, slope)
    run_candidate(device, images_candidate(plan, tile), shape, work)
    got = fetched(device, target, wanted.shape, plan.target_layout)
    check_close(got, wanted, plan.source.channels * shape.taps)


def check_direction(
    device: EmulatedDevice,
    direction: str,
    tile: Tile,
    shape: ConvShape,
    layouts: Layouts = LAST,
    **after: Any,
) -> None:
    """In every way to read the images that the tile is for."""
    found = [
        plan
        for plan in plans(direction, tile.math, shape, layouts)
        if plan.source.number == tile.number and (plan.source.packed or not tile.wgmma)
    ]
    assert found, "the tile is for none"
    for plan in found:
        check_images(device, plan, tile, **after)


def weights_plan(shape: ConvShape, tile: Tile, layouts: Layouts, shares: int) -> conv_last_weights.Plan:
    x, dy = next(
        pair for pair in conv_last_weights.sides(tile.math, shape, layouts) if pair[0].number == tile.number
    )
    return conv_last_weights.Plan(shape, x, dy, tile, shares)


def check_weights(
    device: EmulatedDevice, tile: Tile, shape: ConvShape, layouts: Layouts = LAST, shares: int = 1
) -> None:
    x, w, dy = arrays_of(shape)
    dw = put(device, w, "dw")  # what the gradient is added to
    work = Filters(put(device, laid(x, layouts.x), "x"), put(device, laid(dy, layouts.y), "dy"), dw)
    run_candidate(device, filters_candidate(weights_plan(shape, tile, layouts, shares)), shape, work)
    rounded = ROUNDED[tile.math]
    wanted = w + filter_gradient(shape, rounded(x), rounded(dy))
    check_close(get(device, dw, wanted.shape), wanted, shape.n * shape.p * shape.q)


def smallest(tiles: tuple[Tile, ...], math: str, number: str) -> Tile:
    return [tile for tile in tiles if (tile.math, tile.number) == (math, number)][-1]


def step_of(tile: Tile) -> int:
    """Channels of a step."""
    return (WGMMA_PIECES if tile.wgmma else STEP_PIECES) * PIECE[NUMBERS[tile.math]]


def whole(channels: int) -> int:
    """As many, or a few more, that floats are read as they lie."""
    return -(-channels // 4) * 4


# Strides with phases of different taps, of none (a 1x1 filter), and dilations that share factors with them.
ODD_SHAPES = {
    "plain": shape_of(2, 5, 7, 6, 4, pad=(1, 1)),
    "whole pieces": shape_of(2, 8, 5, 6, 16, pad=(1, 1)),
    "half a piece more": shape_of(2, 12, 5, 6, 20, pad=(1, 1)),
    "pointwise": shape_of(2, 17, 3, 5, 6, (1, 1)),
    "pointwise stride": shape_of(2, 9, 7, 7, 5, (1, 1), (2, 2)),
    "stride": shape_of(1, 4, 11, 10, 6, (3, 5), (2, 3), (1, 2)),
    "stride over taps": shape_of(1, 3, 9, 13, 4, (2, 2), (3, 4)),
    "dilation": shape_of(1, 4, 12, 11, 5, (3, 2), (1, 1), (2, 1), (2, 3)),
    "stride and dilation": shape_of(2, 3, 13, 14, 4, (3, 3), (2, 4), (2, 3), (2, 2)),
    "groups": shape_of(2, 6, 5, 5, 9, (3, 3), (1, 1), (1, 1), group=3),
    "groups of whole pieces": shape_of(2, 8, 5, 5, 16, (3, 3), (2, 2), (1, 1), group=2),
    "one cell": shape_of(1, 3, 4, 3, 2, (4, 3)),
    "first layer": shape_of(1, 3, 19, 17, 7, (7, 5), (2, 2), (3, 2)),
    "wide pad": shape_of(1, 2, 3, 3, 3, (3, 3), (1, 1), (4, 3)),
    "one channel": shape_of(2, 1, 5, 6, 1, (2, 3)),
}


@pytest.mark.parametrize("math", NUMBERS)
@pytest.mark.parametrize("name", ODD_SHAPES)
def test_odd_shapes_in_all_directions_and_layouts(fast: EmulatedDevice, math: str, name: str) -> None:
    shape = ODD_SHAPES[name]
    for layouts in ALL_LAYOUTS:
        for direction in DIRECTIONS:
            for plan in plans(direction, math, shape, layouts):
                check_images(fast, plan, smallest(conv_last.TILES, math, plan.source.number))
                if plan.source.packed:
                    check_images(fast, plan, smallest(WGMMA_TILES, math, NUMBERS[math]))
        for x, _ in conv_last_weights.sides(math, shape, layouts):
            check_weights(fast, smallest(conv_last_weights.TILES, math, x.number), shape, layouts)


@pytest.mark.parametrize("tile", without_twins(IMAGE_TILES), ids=str)
def test_images_at_the_edges_of_tiles(fast: EmulatedDevice, tile: Tile) -> None:
    """Cells, channels and steps of exactly a tile, one less and one more, and of several."""
    step, cells = step_of(tile), tile.m // 8
    more = whole(2 * step + 1)
    check_direction(fast, "forward", tile, shape_of(2, step, 4, cells, tile.n, (1, 1)))
    check_direction(fast, "forward", tile, shape_of(1, more, 1, tile.m - 1, tile.n + 1, (1, 1)))
    check_direction(fast, "forward", tile, shape_of(1, step - 4, 5, cells + 2, tile.n - 1, (3, 1)))
    check_direction(fast, "backward_data", tile, shape_of(2, tile.n, 4, cells, step, (1, 1)))
    check_direction(fast, "backward_data", tile, shape_of(1, tile.n + 1, 1, tile.m + 1, more, (1, 1)))
    check_direction(fast, "backward_data", tile, shape_of(1, 5, 9, cells, step + 4, (3, 3), (2, 1), (1, 1)))


@pytest.mark.parametrize("tile", without_twins(conv_last_weights.TILES), ids=str)
def test_filters_at_the_edges_of_tiles(fast: EmulatedDevice, tile: Tile) -> None:
    step = STEP[tile.number]
    check_weights(fast, tile, shape_of(1, tile.n, 4, step, tile.m, (1, 1)))
    check_weights(fast, tile, shape_of(2, whole(tile.n // 9 + 1), 5, step - 1, tile.m + 4, pad=(1, 1)))
    check_weights(fast, tile, shape_of(3, 2 * tile.n + 4, 3, 5, tile.m - 4, (1, 1)))
    if tile.number == NUMBERS[tile.math]:
        check_weights(fast, tile, shape_of(1, tile.n + 1, 3, 5, tile.m - 1, (1, 1)))


@pytest.mark.parametrize("layout", [NHWC, PLAIN])
@pytest.mark.parametrize("channels", [1, 3, 5, 31, 32, 33, 64])
@pytest.mark.parametrize("math", NUMBERS)
def test_images_are_rounded_and_filled_up(
    device: EmulatedDevice, math: str, channels: int, layout: str
) -> None:
    """Cells of a tile that is turned, one less and one more; channels of several groups."""
    number = np.float32 if math == "tf32" else np.uint16
    for groups, (h, w) in ((1, (8, 8)), (2, (7, 9)), (3, (5, 13))):
        images = np.random.default_rng(1).standard_normal((2, groups * channels, h, w)).astype(np.float32)
        reading = Reading(math, 2, groups, channels, h * w, layout, packed=True)
        packed = room(device, reading.floats, name="packed")
        packing, where = reading.bind(device, put(device, laid(images, layout)), packed)
        assert where is packed
        packing[0]()
        got = get(device, packed, (2, h, w, groups, reading.group_pitch), number)
        wanted = np.zeros(got.shape, np.float32)
        by_group = ROUNDED[math](images).reshape(2, groups, channels, h, w)
        wanted[..., :channels] = by_group.transpose(0, 3, 4, 1, 2)
        np.testing.assert_array_equal(widened(got, math), wanted)


def widened(numbers: np.ndarray, math: str) -> np.ndarray:
    if math == "bf16":
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    return numbers.view(np.float16).astype(np.float32) if math == "fp16" else numbers


def test_images_that_miss_a_vector_are_packed_one_by_one(checked: EmulatedDevice) -> None:
    images = np.random.default_rng(1).standard_normal((2, 8, 3, 5)).astype(np.float32)
    reading = Reading("bf16", 2, 1, 8, 15, NHWC, packed=True)
    packed = room(checked, reading.floats)
    reading.bind(checked, put(checked, laid(images, NHWC), skew=4), packed)[0][0]()
    got = widened(get(checked, packed, (2, 3, 5, 8), np.uint16), "bf16")
    np.testing.assert_array_equal(got, laid(ROUNDED["bf16"](images), NHWC))


def test_images_that_are_read_as_they_lie_must_begin_with_a_piece(fast: EmulatedDevice) -> None:
    reading = Reading("tf32", 1, 1, 4, 2, NHWC, packed=False)
    with pytest.raises(NetcError, match="whole pieces"):
        reading.bind(fast, put(fast, np.zeros(8, np.float32), skew=4), None)


@pytest.mark.parametrize("tile", without_twins(IMAGE_TILES), ids=str)
def test_bias_and_relu_in_the_same_launch(fast: EmulatedDevice, tile: Tile) -> None:
    shape = shape_of(2, 8, 5, 7, 5, (3, 3), (2, 1), (1, 1))
    check_direction(fast, "forward", tile, shape, slope=0.0, bias=True)
    check_direction(fast, "forward", tile, shape, Layouts(NHWC, PLAIN), slope=0.25, bias=True)
    check_direction(fast, "backward_data", tile, replace(shape, c=6, k=4), slope=0.5, bias=True)
    check_direction(fast, "forward", tile, replace(shape, k=6, group=2), slope=0.25, bias=True)


@pytest.mark.parametrize("tile", IMAGE_TILES, ids=str)
def test_every_variant_to_images_in_check_mode(checked: EmulatedDevice, tile: Tile) -> None:
    checked.order, checked.seed = "random", 5
    deep = step_of(tile) + 4
    check_direction(checked, "forward", tile, shape_of(2, deep, 4, 5, 6, (2, 2), pad=(1, 0)), bias=True)
    strided = shape_of(1, 6, 9, 8, 8, (3, 3), (2, 1), (1, 1), group=2)
    check_direction(checked, "backward_data", tile, strided, Layouts(PLAIN, NHWC))
    if tile.number == NUMBERS[tile.math]:
        first = shape_of(1, 3, 9, 8, 5, (3, 3), (2, 1), (1, 1))
        check_direction(checked, "forward", tile, first, Layouts(PLAIN, NHWC))


@pytest.mark.parametrize("tile", conv_last_weights.TILES, ids=str)
def test_every_variant_to_filters_in_check_mode(checked: EmulatedDevice, tile: Tile) -> None:
    checked.order, checked.seed = "random", 5
    check_weights(checked, tile, shape_of(3, 8, 9, 9, 8, (2, 2), group=2), shares=3)
    if tile.number == NUMBERS[tile.math]:
        check_weights(checked, tile, shape_of(2, 3, 6, 7, 5, (3, 2), (1, 2), (1, 1)), Layouts(PLAIN, NHWC))


@pytest.mark.parametrize("shares", [2, 3, 50])
def test_shares_of_the_filters_gradient_add_up(fast: EmulatedDevice, shares: int) -> None:
    """Also where a share has no cells at all."""
    for tile in without_twins(conv_last_weights.TILES):
        check_weights(fast, tile, shape_of(3, 4, 8, 9, 12, pad=(1, 1)), shares=shares)
        check_weights(fast, tile, shape_of(3, 8, 8, 9, 8, pad=(1, 1), group=2), shares=shares)


@pytest.mark.parametrize("math", NUMBERS)
def test_many_channels(fast: EmulatedDevice, math: str) -> None:
    shape = shape_of(1, 260, 3, 3, 132, pad=(1, 1))
    for number in dict.fromkeys((NUMBERS[math], "float")):
        for direction in DIRECTIONS:
            check_direction(fast, direction, smallest(conv_last.TILES, math, number), shape)
        check_weights(fast, smallest(conv_last_weights.TILES, math, number), shape)


def test_the_same_run_gives_the_same_bits(fast: EmulatedDevice) -> None:
    shape, tile = shape_of(4, 8, 9, 9, 8, pad=(1, 1)), smallest(conv_last_weights.TILES, "bf16", "bf16")
    x, w, dy = arrays_of(shape)
    results = []
    for _ in range(2):
        dw = put(fast, w)
        candidate = filters_candidate(weights_plan(shape, tile, PLAIN_SIDES, shares=5))
        run_candidate(fast, candidate, shape, Filters(put(fast, x), put(fast, dy), dw))
        results.append(get(fast, dw))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("special", [0x7FFFFFFF, 0x7FC00000, 0x7F800000, 0xFF800000])
def test_what_is_no_number_stays_so_where_it_is_rounded_on_the_way(
    fast: EmulatedDevice, special: int
) -> None:
    """Also the NaN whose bits are all ones, which rounding upwards would carry into the sign."""
    shape = shape_of(1, 4, 1, 1, 4, (1, 1))
    bits = np.full((1, 4, 1, 1), special, np.uint32)
    target = room(fast, 4)
    (plan, _) = plans("forward", "tf32", shape, LAST)
    work = Images(put(fast, bits), put(fast, np.ones((4, 4), np.float32)), target)
    run_candidate(fast, images_candidate(plan, smallest(conv_last.TILES, "tf32", "float")), shape, work)
    np.testing.assert_array_equal(get(fast, target), np.repeat(bits.view(np.float32), 4)[:4])
    dw = put(fast, np.zeros((4, 4), np.float32))
    filters = Filters(put(fast, bits), put(fast, np.ones((1, 4), np.float32)), dw)
    tile = smallest(conv_last_weights.TILES, "tf32", "float")
    run_candidate(fast, filters_candidate(weights_plan(shape, tile, LAST, 1)), shape, filters)
    np.testing.assert_array_equal(get(fast, dw), np.repeat(bits.view(np.float32), 16)[:16])


@pytest.mark.parametrize("layouts", ALL_LAYOUTS, ids=lambda layouts: f"{layouts.x}-{layouts.y}")
@pytest.mark.parametrize("math", NUMBERS)
def test_every_candidate_runs_with_the_workspace_that_it_asks_for(
    fast: EmulatedDevice, math: str, layouts: Layouts
) -> None:
    shape = shape_of(2, 4, 7, 6, 12, pad=(1, 1))
    arrays = arrays_of(shape)
    x, w, dy = (
        put(fast, array) for array in (laid(arrays[0], layouts.x), arrays[1], laid(arrays[2], layouts.y))
    )
    y, dx, dw = room(fast, shape.y_count), room(fast, shape.x_count), put(fast, 0 * arrays[1])
    for direction, work, target, wanted, layout in (
        ("forward", Images(x, w, y), y, convolve(shape, arrays[0], arrays[1]), layouts.y),
        ("backward_data", Images(dy, w, dx), dx, input_gradient(shape, arrays[2], arrays[1]), layouts.x),
        ("backward_weights", Filters(x, dy, dw), dw, filter_gradient(shape, arrays[0], arrays[2]), PLAIN),
    ):
        candidates = conv_last.candidates(direction, fast, shape, math, layouts)
        assert len({candidate.name for candidate in candidates}) == len(candidates)
        for candidate in candidates:
            fast.fill(dw)
            run_candidate(fast, candidate, shape, work)
            np.testing.assert_allclose(fetched(fast, target, wanted.shape, layout), wanted, rtol=0, atol=0.2)


def test_images_are_read_as_they_lie_only_where_they_are_whole_pieces_of_floats() -> None:
    def packs(math: str, channels: int, layout: str) -> list[bool]:
        return [reading.packed for reading in readings(math, 2, 1, channels, 9, layout)]

    assert packs("tf32", 8, NHWC) == packs("bf16", 4, NHWC) == [False, True]
    assert packs("tf32", 6, NHWC) == packs("tf32", 8, PLAIN) == packs("bf16", 9, NHWC) == [True]


def test_floats_are_packed_first_where_many_taps_read_them() -> None:
    def first_packs(math: str, kernel: tuple[int, int]) -> tuple[bool, bool]:
        shape = shape_of(1, 8, 9, 9, 8, kernel)
        to_filters, _ = conv_last_weights.sides(math, shape, LAST)[0]
        return plans("forward", math, shape, LAST)[0].source.packed, to_filters.packed

    assert first_packs("bf16", (3, 3)) == (True, True)
    assert first_packs("bf16", (1, 1)) == first_packs("tf32", (3, 3)) == (False, False)


def test_tiles_and_shares_are_chosen_to_occupy_the_device(
    fast: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "properties", replace(fast.properties, processors=132))

    def tile_of(shape: ConvShape) -> tuple[int, int]:
        tile = plans("forward", "bf16", shape, LAST)[0].tiles(fast)[0]
        return tile.m, tile.n

    assert tile_of(shape_of(128, 256, 56, 56, 256, (3, 3))) == (256, 128)
    assert tile_of(shape_of(128, 256, 56, 56, 256, (1, 1))) == (128, 128)
    assert tile_of(shape_of(128, 64, 56, 56, 64, (1, 1))) == (128, 64)
    assert tile_of(shape_of(1, 64, 7, 7, 256, (1, 1))) == (64, 64)
    shape, tile = (
        shape_of(128, 64, 56, 56, 64, pad=(1, 1)),
        smallest(conv_last_weights.TILES, "tf32", "float"),
    )
    plan = weights_plan(shape, tile, LAST, 1)
    assert choose_shares(shape, plan.x, tile, 132) == 30  # nine blocks for the filters
    assert choose_shares(shape_of(1, 64, 4, 4, 64, pad=(1, 1)), plan.x, tile, 132) == 1


def test_too_little_workspace_is_refused(fast: EmulatedDevice) -> None:
    shape = shape_of(1, 5, 7, 6, 4)
    x, w, dy = (put(fast, array) for array in arrays_of(shape))
    work = Images(x, w, room(fast, shape.y_count), workspace=room(fast, 3))
    with pytest.raises(NetcError, match="too little workspace"):
        conv_last.candidates("forward", fast, shape, "tf32", LAST)[0].bind(fast, shape, work)
    filters = Filters(x, dy, w, workspace=room(fast, 3))
    with pytest.raises(NetcError, match="too little workspace"):
        conv_last.candidates("backward_weights", fast, shape, "bf16", LAST)[0].bind(fast, shape, filters)


def test_every_kernel_has_a_row_of_its_own() -> None:
    rows = (*conv_last.VARIANTS, *conv_last_images.VARIANTS, *conv_last_weights.VARIANTS)
    assert len({row.name for row in rows}) == len({(row.file, row.expression) for row in rows}) == len(rows)
