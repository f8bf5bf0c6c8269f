"""Convolutions agree with sums in double precision in all directions: at the edges of tiles, for every kind
of window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.compilation import Kernel
from netc.backends.cuda.convolution import conv
from netc.backends.cuda.convolution.conv_terms import Tables
from netc.backends.cuda.convolution.shape import ConvShape
from netc.backends.cuda.convolution.work import Candidate, Filters, Images
from netc.backends.cuda.device import Device
from netc.backends.cuda.emulator import EmulatedDevice
from netc.layer.lowering import Lowering
from netc.layer.window import Window
from tests.cuda.arrays import get, put, room

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]


def shape_of(
    n: int,
    c: int,
    hw: tuple[int, int],
    k: int,
    rs: tuple[int, int],
    group: int = 1,
    **window: tuple[int, int],
) -> ConvShape:
    made = Window(rs, window.get("stride", (1, 1)), window.get("pad", (0, 0)), window.get("dilation", (1, 1)))
    return ConvShape.of(made, (n, c, *hw), (n, k, *made.output(hw)), group)


class Case:
    """Random arrays of a shape, and what all directions make of them in double precision."""

    def __init__(self, shape: ConvShape, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.shape = shape

        def drawn(*sizes: int) -> np.ndarray:
            return rng.standard_normal(sizes).astype(np.float32)

        self.x = drawn(shape.n, shape.c, shape.h, shape.w)
        self.w = drawn(shape.k, shape.group_c, shape.r, shape.s)
        self.dy = drawn(shape.n, shape.k, shape.p, shape.q)
        self.bias, self.x_bias, self.dw = drawn(shape.k), drawn(shape.c), drawn(*self.w.shape)
        window = Window((shape.r, shape.s), shape.stride, shape.pad, shape.dilation)
        self.lowering = Lowering.of(
            shape.n, shape.group, shape.c, shape.k, window, (shape.h, shape.w), (shape.p, shape.q)
        )

    def forward(self, slope: float) -> np.ndarray:
        y = np.empty(self.dy.shape)
        x, w, bias = (array.astype(np.float64) for array in (self.x, self.w, self.bias))
        self.lowering.forward(np, x, w, y, bias)
        return np.where(y > 0, y, slope * y)

    def backward(self, slope: float) -> tuple[np.ndarray, np.ndarray]:
        """dx as a deconvolution with bias and ReLU makes it, and dw."""
        dx, dw = np.empty(self.x.shape), self.dw.astype(np.float64)
        x, dy, w = (array.astype(np.float64) for array in (self.x, self.dy, self.w))
        self.lowering.backward(np, x, dy, w, dx, dw)
        dx += self.x_bias.reshape(-1, 1, 1)
        return np.where(dx > 0, dx, slope * dx), dw


Pick = Callable[[str, Device, ConvShape], Candidate]  # what runs a direction


def by_rule(direction: str, device: Device, shape: ConvShape) -> Candidate:
    return conv.candidates(direction, device, shape)[0]


def check(
    device: EmulatedDevice,
    shape: ConvShape,
    pick: Pick = by_rule,
    slope: float = 1.0,
    tolerance: float = 2e-6,
    skew: int = 0,
) -> None:
    """Compares all three directions; errors may grow with the square root of the number of terms."""
    case = Case(shape)
    x, w, dy = (put(device, getattr(case, name), name, skew) for name in ("x", "w", "dy"))
    bias, x_bias, dw = (put(device, getattr(case, name), name) for name in ("bias", "x_bias", "dw"))
    y = room(device, shape.y_count, name="y", skew=skew)
    dx = room(device, shape.x_count, name="dx", skew=skew)

    for direction, work in (
        ("forward", Images(x, w, y, bias, slope)),
        ("backward_data", Images(dy, w, dx, x_bias, slope)),
        ("backward_weights", Filters(x, dy, dw)),
    ):
        candidate = pick(direction, device, shape)
        room_for = room(device, candidate.floats, name="workspace") if candidate.floats else None
        candidate.bind(device, shape, replace(work, workspace=room_for))()

    wanted_dx, wanted_dw = case.backward(slope)
    for name, memory, wanted, terms in (
        ("y", y, case.forward(slope), shape.group_c * shape.taps),
        ("dx", dx, wanted_dx, shape.group_k * shape.taps),
        ("dw", dw, wanted_dw, shape.n * shape.p * shape.q),
    ):
        error = np.abs(get(device, memory, wanted.shape) - wanted).max()
        assert error <= tolerance * 8 * np.sqrt(terms), (name, shape, error)


# What a window may be: each is run in all three directions.
WINDOWS = {
    "3x3": shape_of(2, 5, (7, 6), 4, (3, 3), pad=(1, 1)),
    "1x1": shape_of(3, 6, (4, 5), 7, (1, 1)),
    "1x1 of odd planes": shape_of(3, 6, (3, 5), 7, (1, 1)),
    "1x1 with a stride": shape_of(2, 5, (7, 8), 6, (1, 1), stride=(2, 3)),
    "1x1 with a pad": shape_of(2, 3, (4, 4), 6, (1, 1), pad=(1, 2)),
    "a stride that leaves cells over": shape_of(2, 3, (10, 11), 5, (3, 3), stride=(2, 2)),
    "a stride above the kernel": shape_of(1, 3, (11, 10), 5, (2, 2), stride=(4, 3)),
    "a stride that leaves all cells out": shape_of(2, 3, (1, 2), 5, (1, 1), stride=(2, 3), pad=(1, 2)),
    "one colour": shape_of(3, 1, (9, 9), 6, (5, 5)),
    "first layer": shape_of(2, 3, (27, 29), 9, (11, 11), stride=(4, 4), pad=(2, 2)),
    "dilation": shape_of(2, 3, (9, 10), 4, (3, 2), dilation=(2, 3), pad=(2, 1)),
    "dilation and stride": shape_of(1, 3, (13, 14), 4, (3, 3), dilation=(2, 3), stride=(3, 2), pad=(2, 3)),
    "dilation and stride with a common divisor": shape_of(
        1, 3, (15, 14), 4, (3, 3), dilation=(4, 2), stride=(2, 4), pad=(3, 1)
    ),
    "groups": shape_of(2, 6, (6, 5), 9, (3, 3), 3, pad=(1, 1)),
    "groups of 1x1": shape_of(2, 6, (6, 6), 9, (1, 1), 3),
    "one channel to a group": shape_of(2, 4, (6, 5), 8, (3, 3), 4, stride=(2, 1)),
    "one row": shape_of(4, 5, (1, 9), 3, (1, 4), pad=(0, 2)),
    "the whole image": shape_of(4, 6, (5, 4), 7, (5, 4)),
    "a pad beyond the kernel": shape_of(1, 2, (4, 4), 3, (2, 2), pad=(3, 3)),
    "a kernel larger than its input by less than a stride": shape_of(1, 2, (3, 4), 3, (4, 4), stride=(2, 2)),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows(fast: EmulatedDevice, name: str) -> None:
    check(fast, WINDOWS[name])
    check(fast, replace(WINDOWS[name], n=1), slope=0.1)


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_in_check_mode(checked: EmulatedDevice, name: str) -> None:
    checked.order, checked.seed = "random", 3
    check(checked, WINDOWS[name], slope=0.0)


# ---- tiles ----
def names_of_launches(device: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fills up with the names of the kernels that are launched."""
    names: list[str] = []
    launch = device.launch

    def noted(kernel: Kernel, *arguments: Any, **options: Any) -> None:
        names.append(kernel.name)
        launch(kernel, *arguments, **options)

    monkeypatch.setattr(device, "launch", noted)
    return names


def edges_of(tile: conv.Tile) -> list[ConvShape]:
    """Rows, columns and terms of one tile, one less and one more, and of several."""
    return [
        shape_of(1, tile.k, (1, tile.n), tile.m, (1, 1)),
        shape_of(1, tile.k + 1, (1, tile.n - 1), tile.m + 1, (1, 1)),
        shape_of(1, tile.k - 1, (1, tile.n + 1), tile.m - 1, (1, 1)),
        shape_of(2, 2 * tile.k + 3, (13, tile.n // 8 - 1), 2 * tile.m + 3, (2, 2)),
        shape_of(3, 3 * tile.k, (4, tile.n // 8), 2 * tile.m, (1, 1)),
    ]


@pytest.mark.parametrize(
    ("source", "tile"),
    [(source, tile) for source, (_, tiles) in conv.SOURCES.items() for tile in tiles],
    ids=lambda given: given if isinstance(given, str) else f"{given.m}x{given.n}",
)
def test_image_tiles_at_their_edges(
    fast: EmulatedDevice, source: str, tile: conv.Tile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pick(direction: str, device: Device, shape: ConvShape) -> Candidate:
        tried = conv.candidates(direction, device, shape)
        name = f"simt {tile.m}x{tile.n}"
        return next((candidate for candidate in tried if candidate.name == name), tried[0])

    if source == "compared":
        monkeypatch.setattr(Tables, "masked", False)
    names = names_of_launches(fast, monkeypatch)
    for shape in edges_of(tile):
        check(fast, shape, pick)
    assert f"conv {source} {tile.m}x{tile.n}" in names


@pytest.mark.parametrize("tile", conv.WEIGHT_TILES, ids=lambda tile: f"{tile.m}x{tile.n}")
def test_weight_tiles_at_their_edges(
    fast: EmulatedDevice, tile: conv.Tile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv, "WEIGHT_TILES", (tile,))
    for shape in (
        shape_of(1, tile.n, (1, tile.k), tile.m, (1, 1)),
        shape_of(2, tile.n - 1, (3, tile.k + 1), tile.m + 1, (1, 1)),
        shape_of(1, tile.n + 1, (1, tile.k - 1), tile.m - 1, (1, 1)),
        shape_of(2, 2 * tile.n // 9 + 1, (5, 7), 2 * tile.m + 3, (3, 3), pad=(1, 1)),
    ):
        check(fast, shape)


def test_long_sums_are_shared_out_and_added_up(
    device: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv, "PARTS_PER_PROCESSOR", (16,))
    shape = shape_of(5, 3, (23, 19), 6, (3, 3), 3, pad=(1, 1))
    assert by_rule("backward_weights", device, shape).floats >= 2 * shape.weight_count
    check(device, shape)


def test_many_channels(fast: EmulatedDevice) -> None:
    check(fast, shape_of(1, 520, (3, 4), 260, (3, 3), pad=(1, 1)))
    check(fast, shape_of(1, 1030, (2, 2), 70, (1, 1)))


def test_kernels_of_many_positions_and_addresses_that_allow_no_packs(device: EmulatedDevice) -> None:
    check(device, shape_of(1, 2, (20, 19), 3, (17, 16)))
    check(device, shape_of(2, 4, (4, 4), 8, (1, 1)), skew=4)


def test_the_tile_follows_the_rows_and_the_device() -> None:
    tiles = conv.IMAGE_TILES
    assert conv.choose_tile(tiles, 512, 100_000, 1, 132).m == 128
    assert conv.choose_tile(tiles, 64, 100_000, 1, 132).m == 64
    assert conv.choose_tile(tiles, 96, 100_000, 1, 132).m == 32  # nothing beyond the last row
    assert conv.choose_tile(tiles, 20, 100_000, 1, 132).m == 32
    assert conv.choose_tile(tiles, 512, 500, 1, 132).m == 32  # the others leave processors idle


def test_repeated_sums_are_the_same_to_the_bit(fast: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "PARTS_PER_PROCESSOR", (16,))
    case = Case(shape_of(4, 4, (25, 25), 5, (3, 3)))
    candidate = by_rule("backward_weights", fast, case.shape)
    results = []
    for _ in range(2):
        x, dy, dw = (put(fast, array) for array in (case.x, case.dy, case.dw))
        candidate.bind(fast, case.shape, Filters(x, dy, dw, room(fast, candidate.floats)))()
        results.append(get(fast, dw))
    np.testing.assert_array_equal(*results)


def test_first_layers_get_a_narrow_tile(fast: EmulatedDevice) -> None:
    shape = shape_of(2, 3, (9, 9), 64, (3, 3))
    assert conv.splits(fast, shape)[0].tile.n == 32
    assert conv.splits(fast, replace(shape, c=64))[0].tile.n == 64


def test_every_split_that_a_tuner_tries_gives_the_same_sums(fast: EmulatedDevice) -> None:
    case = Case(shape_of(3, 4, (21, 20), 70, (3, 3)))
    wanted = case.backward(1.0)[1]
    tried = conv.splits(fast, case.shape)
    assert {split.tile for split in tried} == set(conv.WEIGHT_TILES)
    assert {split.parts for split in tried} >= {1, 2, 4}
    for split in tried:
        x, dy, dw = (put(fast, array) for array in (case.x, case.dy, case.dw))
        floats = split.floats(case.shape)
        work = Filters(x, dy, dw, room(fast, floats) if floats else None)
        conv.bind_filters(fast, case.shape, work, split)()
        np.testing.assert_allclose(get(fast, dw, wanted.shape), wanted, rtol=1e-4, atol=1e-4)


def test_shapes_that_are_beyond_the_kernels_do_not_fit() -> None:
    shape = shape_of(1, 2, (9, 9), 4, (3, 3))
    assert shape.fits
    for change in (
        {"n": 1 << 25},
        {"c": 1 << 26},
        {"pad": (1 << 15, 0)},
        {"dilation": (1 << 14, 1)},
        {"stride": (300, 300)},
    ):
        assert not replace(shape, **change).fits, change
