"""What every kernel that convolves does to its sums, and the moments of them that it leaves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from netc.backends.cuda.convolution import conv, conv_last, conv_mma, depthwise, winograd
from netc.backends.cuda.convolution.conv_last import WGMMA_TILES, images_candidate, plans
from netc.backends.cuda.convolution.shape import PLAIN_SIDES, ConvShape, Layouts
from netc.backends.cuda.convolution.work import Candidate, Images
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.layers.bn import MOMENTS
from netc.backends.form import NHWC, PLAIN
from tests.cuda.arrays import get, put, room
from tests.cuda.convolutions import arrays_of, convolve, shape_of
from tests.cuda.rounding import ROUNDED

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

LAST = Layouts(NHWC, NHWC)
MIXED = Layouts(PLAIN, NHWC)
SLOPE = 0.25
# Cells and channels about the sizes of tiles, several tiles of both; odd rows; groups, a stride.
SHAPES = {
    "one": shape_of(1, 3, 1, 1, 1, (1, 1)),
    "below": shape_of(1, 4, 1, 127, 127, (1, 1)),
    "above": shape_of(3, 4, 1, 43, 129, (1, 1)),
    "wide": shape_of(2, 2, 8, 20, 260, (1, 1)),
    "long": shape_of(3, 3, 10, 11, 33, (3, 3), pad=(1, 1)),
    "groups": shape_of(2, 8, 9, 8, 20, (3, 3), (2, 2), (1, 1), group=2),
}


def direct(device: EmulatedDevice, shape: ConvShape) -> list[Candidate]:
    return conv.candidates("forward", device, shape)


def turned(device: EmulatedDevice, shape: ConvShape, math: str, layouts: Layouts) -> list[Candidate]:
    return conv_last.candidates("forward", device, shape, math, layouts)


def check(
    device: EmulatedDevice,
    shape: ConvShape,
    candidate: Candidate,
    math: str = "fp32",
    layouts: Layouts = PLAIN_SIDES,
    skew: int = 0,
) -> None:
    """Holds a candidate's results, with all of an epilogue and with none of it, and its moments to their
    meaning."""
    x, w, residual = arrays_of(shape)
    x, w = ROUNDED[math](x), ROUNDED[math](w)
    factor, bias = (np.random.default_rng(i).uniform(0.5, 2, shape.k).astype(np.float32) for i in (1, 2))
    sums = convolve(shape, x, w)

    def laid(array: np.ndarray, layout: str) -> np.ndarray:
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if layout == NHWC else array

    def run(**ending: object) -> np.ndarray:
        y = room(device, shape.y_count, skew=skew)
        space = room(device, candidate.floats) if candidate.floats else None
        given = (put(device, laid(x, layouts.x)), put(device, w), y)
        candidate.bind(device, shape, Images(*given, workspace=space, **ending))()  # type: ignore[arg-type]
        found = get(device, y, laid(sums, layouts.y).shape)
        return found.transpose(0, 3, 1, 2) if layouts.y == NHWC else found

    def column(numbers: np.ndarray) -> np.ndarray:
        return numbers.reshape(1, -1, 1, 1)

    bound = {"rtol": 1e-5, "atol": 1e-5 * float(np.abs(sums).max())}
    lines = sums * column(factor) + column(bias)
    given = {"bias": put(device, bias), "factor": put(device, factor)}
    added = put(device, laid(residual, layouts.y), skew=skew)
    wanted = lines + residual
    found = run(**given, residual=added, slope=SLOPE)
    np.testing.assert_allclose(found, np.where(wanted > 0, wanted, SLOPE * wanted), **bound)
    np.testing.assert_allclose(run(residual=added), sums + residual, **bound)
    np.testing.assert_allclose(run(factor=given["factor"]), sums * column(factor), **bound)
    if candidate.moment_parts:
        moments = room(device, shape.k * candidate.moment_parts * MOMENTS)
        values = sums + column(bias)
        np.testing.assert_allclose(run(bias=given["bias"], moments=moments), values, **bound)
        check_moments(get(device, moments, (shape.k, candidate.moment_parts, MOMENTS)), values)


def check_moments(found: np.ndarray, values: np.ndarray) -> None:
    """Holds the parts of each channel's moments to the values."""
    by_channel = values.transpose(1, 0, 2, 3).reshape(values.shape[1], -1)
    counts, means, squares = found.astype(np.float64).transpose(2, 0, 1)
    assert (counts > 0).all()
    np.testing.assert_array_equal(counts.sum(axis=1), by_channel.shape[1])
    mean = (counts * means).sum(axis=1) / by_channel.shape[1]
    scale = float(np.abs(values).max())
    np.testing.assert_allclose(mean, by_channel.mean(axis=1), rtol=1e-5, atol=1e-6 * scale)
    spread = squares.sum(axis=1) + (counts * (means - mean[:, None]) ** 2).sum(axis=1)
    wanted = ((by_channel - by_channel.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    np.testing.assert_allclose(spread, wanted, rtol=2e-5, atol=1e-9 * scale**2)


@pytest.mark.parametrize("name", SHAPES)
def test_on_the_ordinary_cores(checked: EmulatedDevice, name: str) -> None:
    checked.order, checked.seed = "random", 3
    for candidate in direct(checked, SHAPES[name]):
        assert candidate.moment_parts
        check(checked, SHAPES[name], candidate)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("math", ["tf32", "bf16", "fp16"])
def test_on_tensor_cores(checked: EmulatedDevice, math: str, name: str) -> None:
    checked.order, checked.seed = "random", 3
    for candidate in conv_mma.candidates("forward", checked, SHAPES[name], math):
        assert candidate.moment_parts
        check(checked, SHAPES[name], candidate, math)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("math", ["tf32", "bf16", "fp16"])
@pytest.mark.parametrize("layouts", [LAST, MIXED], ids=["last", "planes to last"])
def test_channels_last(checked: EmulatedDevice, layouts: Layouts, math: str, name: str) -> None:
    checked.order, checked.seed = "random", 3
    for candidate in conv_last.candidates("forward", checked, SHAPES[name], math, layouts):
        assert candidate.moment_parts
        check(checked, SHAPES[name], candidate, math, layouts)


def fed(shape: ConvShape, math: str) -> Iterator[Candidate]:
    """Those by products of four warps, which no net takes so far."""
    (plan,) = (plan for plan in plans("forward", math, shape, LAST) if plan.source.packed)
    return (images_candidate(plan, tile) for tile in WGMMA_TILES if tile.math == math)


@pytest.mark.parametrize("name", ["above", "wide"])
def test_of_four_warps(checked: EmulatedDevice, name: str) -> None:
    checked.order, checked.seed = "random", 3
    for candidate in fed(SHAPES[name], "bf16"):
        assert not candidate.moment_parts
        check(checked, SHAPES[name], candidate, "bf16", LAST)


def test_by_winograds_method(checked: EmulatedDevice) -> None:
    checked.order, checked.seed = "random", 3
    for shape in (shape_of(3, 9, 7, 8, 65, pad=(1, 1)), shape_of(2, 3, 9, 12, 5, pad=(1, 1))):
        for m in winograd.TILE_SIZES:
            check(checked, shape, winograd.candidate("forward", shape, m))


@pytest.mark.parametrize("layout", [PLAIN, NHWC])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (2, 3)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
def test_depthwise(
    checked: EmulatedDevice, stride: tuple[int, int], kernel: tuple[int, int], layout: str
) -> None:
    checked.order, checked.seed = "random", 3
    for channels in (3, 36):
        shape = shape_of(2, channels, 9, 10, channels, kernel, stride, (1, 1), group=channels)
        candidate = depthwise.candidate("forward", checked, shape, layout)
        check(checked, shape, candidate, layouts=Layouts(layout, layout))


@pytest.mark.parametrize("skew", [4, 8])
def test_results_and_residual_off_sixteen_bytes(checked: EmulatedDevice, skew: int) -> None:
    shape = shape_of(2, 4, 4, 8, 8, pad=(1, 1))
    for candidate in (*direct(checked, shape), *(winograd.candidate("forward", shape, m) for m in (2, 4))):
        check(checked, shape, candidate, skew=skew)
    for candidate in conv_mma.candidates("forward", checked, shape, "bf16"):
        check(checked, shape, candidate, "bf16", skew=skew)
    for candidate in turned(checked, shape, "tf32", LAST):
        check(checked, shape, candidate, "tf32", LAST, skew=skew)


def test_moments_of_values_far_from_zero(checked: EmulatedDevice) -> None:
    shape = SHAPES["wide"]
    x, w, _ = arrays_of(shape)
    sums, bias = convolve(shape, x, w), np.linspace(-1e4, 1e4, shape.k).astype(np.float32)
    for candidate in direct(checked, shape):
        y, moments = room(checked, shape.y_count), room(checked, shape.k * candidate.moment_parts * MOMENTS)
        space = room(checked, candidate.floats) if candidate.floats else None
        work = Images(
            put(checked, x), put(checked, w), y, put(checked, bias), workspace=space, moments=moments
        )
        candidate.bind(checked, shape, work)()
        values = get(checked, y, sums.shape).astype(np.float64)  # as they have been rounded
        found = get(checked, moments, (shape.k, candidate.moment_parts, MOMENTS)).astype(np.float64)
        counts, means, squares = found.transpose(2, 0, 1)
        by_channel = values.transpose(1, 0, 2, 3).reshape(shape.k, -1)
        mean = (counts * means).sum(axis=1) / counts.sum(axis=1)
        np.testing.assert_allclose(mean, by_channel.mean(axis=1), rtol=1e-6, atol=1e-5)
        spread = squares.sum(axis=1) + (counts * (means - mean[:, None]) ** 2).sum(axis=1)
        np.testing.assert_allclose(spread / counts.sum(axis=1), by_channel.var(axis=1), rtol=2e-3)
