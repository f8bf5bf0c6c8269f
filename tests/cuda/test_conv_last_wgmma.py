"""Convolutions by products of four warps: how their filters are packed, many tiles, who takes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from netc.backends.cuda.convolution import conv_last
from netc.backends.cuda.convolution.conv_last import WGMMA_TILES, plans
from netc.backends.cuda.convolution.conv_last_filters import WGMMA_COLUMNS, WGMMA_PIECES, FilterTiles
from netc.backends.cuda.convolution.conv_last_images import NUMBERS, PIECE
from netc.backends.cuda.convolution.conv_last_tile import Tile
from netc.backends.cuda.convolution.shape import ConvShape, Layouts
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.form import NHWC, PLAIN
from tests.cuda.arrays import get, put, room
from tests.cuda.convolutions import arrays_of, shape_of
from tests.cuda.rounding import ROUNDED
from tests.cuda.test_conv_last_kernels import LAST, ODD_SHAPES, check_direction, step_of, without_twins
from tests.cuda.wgmma_tiles import as_tiles

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

TILES = without_twins(WGMMA_TILES)
FED = [tile for tile in TILES if tile.feeders]


def taps_of_phase(shape: ConvShape, phase: tuple[int, int]) -> list[tuple[int, int]]:
    """The taps that a cell of the bottom of this phase meets."""
    high, wide = (
        [tap for tap in range(taps) if (first + pad - tap * dilation) % stride == 0]
        for taps, first, pad, dilation, stride in zip(
            (shape.r, shape.s), phase, shape.pad, shape.dilation, shape.stride, strict=True
        )
    )
    return [(y, x) for y in high for x in wide]


def terms_of(shape: ConvShape, w: np.ndarray, math: str, backward: bool) -> list[np.ndarray]:
    """Of each phase and group: (output channels, terms), its taps one after another, each of whole pieces."""
    each, strides = PIECE[NUMBERS[math]], shape.stride
    every = [(r, s) for r in range(shape.r) for s in range(shape.s)]
    phases = (
        [taps_of_phase(shape, (y, x)) for y in range(strides[0]) for x in range(strides[1])]
        if backward
        else [every]
    )
    groups = w.reshape(shape.group, shape.group_k, shape.group_c, shape.r, shape.s)
    found = []
    for taps in phases:
        for group in groups:
            rows = group.swapaxes(0, 1) if backward else group
            fill = -rows.shape[1] % each
            padded = np.pad(rows, ((0, 0), (0, fill), (0, 0), (0, 0)))
            parts = [padded[:, :, y, x] for y, x in taps]
            found.append(np.concatenate(parts, 1) if parts else np.empty((len(rows), 0), np.float32))
    return found


def narrowed(math: str, numbers: np.ndarray) -> np.ndarray:
    """As they lie in memory."""
    rounded = ROUNDED[math](numbers)
    if math == "bf16":
        return (rounded.view(np.uint32) >> 16).astype(np.uint16)
    return rounded.astype(np.float16) if math == "fp16" else rounded


PACKED_SHAPES = {
    **ODD_SHAPES,
    "two blocks of channels": shape_of(1, 12, 3, 3, 260, (1, 1)),
    "several steps": shape_of(1, 72, 3, 3, 5, (1, 2)),
    "stride over few taps": shape_of(1, 130, 5, 5, 9, (1, 1), (2, 2)),
}


@pytest.mark.parametrize("columns", WGMMA_COLUMNS)
@pytest.mark.parametrize("math", NUMBERS)
@pytest.mark.parametrize("name", PACKED_SHAPES)
def test_filters_are_packed_as_tiles(checked: EmulatedDevice, name: str, math: str, columns: int) -> None:
    shape = PACKED_SHAPES[name]
    w = arrays_of(shape)[1]
    depth = WGMMA_PIECES * PIECE[NUMBERS[math]]
    for direction in ("forward", "backward_data"):
        side = plans(direction, math, shape, LAST)[0].side
        tiles = FilterTiles(side, columns)
        packed = room(checked, tiles.floats, name="packed")
        tiles.bind(checked, put(checked, w, "w"), packed)()
        for number, terms in enumerate(terms_of(shape, w, math, side.backward)):
            steps = -(-terms.shape[1] // depth)
            assert steps <= tiles.pitch
            if not steps:
                continue
            whole = np.zeros((tiles.blocks * columns, steps * depth), np.float32)
            whole[: terms.shape[0], : terms.shape[1]] = terms
            wanted = as_tiles(narrowed(math, whole).reshape(-1, columns, steps, depth).swapaxes(1, 2).copy())
            each = tiles.floats * 4 // (side.others * tiles.blocks)
            for block in range(tiles.blocks):
                begin = (number * tiles.blocks + block) * each
                got = packed.part(begin, wanted[block].nbytes, "tiles")  # the rest nobody has written
                np.testing.assert_array_equal(get(checked, got, -1, wanted.dtype), wanted[block].ravel())


@pytest.mark.parametrize("tile", FED, ids=str)
@pytest.mark.parametrize("name", ODD_SHAPES)
def test_odd_shapes_of_products_that_are_fed(fast: EmulatedDevice, tile: Tile, name: str) -> None:
    for direction in ("forward", "backward_data"):
        check_direction(fast, direction, tile, ODD_SHAPES[name])


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_several_tiles_and_steps(fast: EmulatedDevice, tile: Tile) -> None:
    """More steps than stages, over several blocks of cells and of channels."""
    deep = step_of(tile) * (tile.stages + 2) // 2 - 4
    check_direction(fast, "forward", tile, shape_of(3, deep, 9, 10, tile.n + 4, (1, 2)), LAST, bias=True)
    check_direction(fast, "backward_data", tile, shape_of(3, 2 * tile.n + 4, 9, 11, deep, (2, 1)))


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_many_channels_in_random_order(tile: Tile) -> None:
    device = EmulatedDevice(order="random", seed=3)
    check_direction(device, "forward", tile, shape_of(1, 516, 3, 5, 132, (3, 3), pad=(1, 1)), LAST, slope=0.0)
    check_direction(device, "backward_data", tile, shape_of(1, 132, 3, 5, 516, (3, 3), pad=(1, 1)))


@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize("order", ["backward", "random"])
def test_more_steps_than_stages_in_check_mode(tile: Tile, order: str) -> None:
    device = EmulatedDevice(check=True, order=order, seed=2)
    deep = step_of(tile) * (tile.stages + 2)
    check_direction(device, "forward", tile, shape_of(1, deep, 5, 26, 12, (1, 1)))
    check_direction(device, "backward_data", tile, shape_of(1, 8, 7, 9, deep // 2, (3, 2), (2, 1), (1, 1)))


def test_filters_that_have_no_tap_in_any_phase_but_one(fast: EmulatedDevice) -> None:
    """Cells that no tap meets are zeros, and bias and ReLU of them."""
    shape = shape_of(1, 8, 9, 9, 8, (1, 1), (3, 3))
    for tile in TILES:
        check_direction(fast, "backward_data", tile, shape, bias=True, slope=0.5)


@pytest.mark.parametrize("layouts", [LAST, Layouts(PLAIN, NHWC)], ids=["last", "plain"])
def test_the_tuner_takes_them_only_where_they_are_listed(
    monkeypatch: pytest.MonkeyPatch, layouts: Layouts
) -> None:
    """On the GPUs that have the instructions, and where they would not mostly multiply zeros."""
    device = EmulatedDevice()

    def of_wgmma(filters: int) -> list[str]:
        shape = shape_of(2, 8, 5, 5, filters, (3, 3))
        found = conv_last.candidates("forward", device, shape, "bf16", layouts)
        return [candidate.name for candidate in found if "wgmma" in candidate.name]

    assert of_wgmma(128) == []
    monkeypatch.setattr(conv_last, "TUNED_WGMMA_TILES", WGMMA_TILES)
    sizes = {63: (), 64: ("256x128", "128x128"), 128: ("128x256", "256x128", "128x128")}
    for filters, wanted in sizes.items():
        assert of_wgmma(filters) == [f"last bf16 wgmma {size} packed" for size in wanted]
    device.properties = replace(device.properties, architecture=100)
    assert of_wgmma(128) == []
