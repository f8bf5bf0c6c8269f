"""ROIPooling and PSROIPooling: bins of regions, written out cell by cell, and regions that make no sense."""

from __future__ import annotations

import math

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import OneLayer, make_layer, run

RNG = np.random.default_rng(6)
WHOLE = 'type: "ROIPooling" roi_pooling_param { pooled_h: 1 pooled_w: 1 }'


def rounded(value: float) -> int:
    """The nearest whole number, halves away from zero."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def bins(start: float, size: float, number: int, cells: int) -> list[range]:
    """The cells of each bin of one axis."""
    return [
        range(
            min(max(math.floor(p * size + start), 0), cells),
            min(max(math.ceil((p + 1) * size + start), 0), cells),
        )
        for p in range(number)
    ]


def roi_pooled(x: np.ndarray, region: list[float], scale: float, pooled: tuple[int, int]) -> np.ndarray:
    """One region's maxima (C, P, Q), cell by cell."""
    image, left, top, right, bottom = region
    starts, ends = ([rounded(value * scale) for value in pair] for pair in ((top, left), (bottom, right)))
    sizes = [max(end - start + 1, 1) / n for start, end, n in zip(starts, ends, pooled, strict=True)]
    rows, columns = (bins(starts[a], sizes[a], pooled[a], x.shape[2 + a]) for a in (0, 1))
    result = np.zeros((x.shape[1], *pooled))
    for p, hs in enumerate(rows):
        for q, ws in enumerate(columns):
            cells = [x[int(image), :, h, w] for h in hs for w in ws]
            if cells:
                result[:, p, q] = np.max(cells, axis=0)
    return result


@pytest.mark.parametrize(("scale", "pooled"), [(1.0, (3, 3)), (0.5, (2, 4)), (0.25, (7, 1)), (2.0, (1, 5))])
def test_roi_pooling_is_the_maximum_of_each_bin(scale: float, pooled: tuple[int, int]) -> None:
    x = RNG.standard_normal((3, 4, 8, 11))
    regions = [[int(RNG.integers(3)), *RNG.uniform(-3, 12 / scale, 4)] for _ in range(25)]
    regions += [[0, 2, 2, 2, 2], [1, 0, 0, 100, 100], [2, 50, 50, 60, 60], [0, 5, 5, 1, 1]]
    options = f"pooled_h: {pooled[0]} pooled_w: {pooled[1]} spatial_scale: {scale}"
    text = f'type: "ROIPooling" roi_pooling_param {{ {options} }}'
    (y,) = run(text, x, regions, dtype=np.float64)
    for found, region in zip(y, regions, strict=True):
        np.testing.assert_array_equal(found, roi_pooled(x, region, scale, pooled))


def test_overlapping_regions_add_their_gradients() -> None:
    x = np.zeros((1, 1, 3, 3))
    x[0, 0, 1, 1] = 5
    layer = OneLayer(WHOLE, x, [[0, 0, 0, 2, 2], [0, 1, 1, 2, 2]])
    layer.forward()
    dx, dregions = layer.backward(np.array([2.0, 3.0]).reshape(2, 1, 1, 1))
    assert dx[0, 0].tolist() == [[0, 0, 0], [0, 5, 0], [0, 0, 0]]
    assert not dregions.any()


def test_a_region_turned_inside_out_gives_no_gradient() -> None:
    layer = OneLayer(WHOLE, np.ones((1, 2, 4, 4)), [[0, 3, 3, 1, 1]])
    (y,) = layer.forward()
    assert y.ravel().tolist() == [1, 1]
    assert not layer.backward(np.ones((1, 2, 1, 1)))[0].any()


@pytest.mark.parametrize(("scale", "group"), [(1.0, 2), (0.0625, 3), (0.4, 1)])
def test_psroi_pooling_is_the_mean_of_each_bin_in_its_own_channel(scale: float, group: int) -> None:
    x = RNG.standard_normal((2, 2 * group**2, 7, 9))
    regions = [[int(RNG.integers(2)), *RNG.uniform(-5, 10 / scale, 4)] for _ in range(20)]
    options = f"spatial_scale: {scale} output_dim: 2 group_size: {group}"
    text = f'type: "PSROIPooling" psroi_pooling_param {{ {options} }}'
    (y,) = run(text, x, regions, dtype=np.float64)
    scale = float(np.float32(scale))
    for found, (image, left, top, right, bottom) in zip(y, regions, strict=True):
        starts = (rounded(top) * scale, rounded(left) * scale)
        ends = ((rounded(bottom) + 1) * scale, (rounded(right) + 1) * scale)
        sizes = [max(end - start, 0.1) / group for start, end in zip(starts, ends, strict=True)]
        rows, columns = (bins(starts[a], sizes[a], group, x.shape[2 + a]) for a in (0, 1))
        for c in range(2):
            for p, hs in enumerate(rows):
                for q, ws in enumerate(columns):
                    cells = [x[image, (c * group + p) * group + q, h, w] for h in hs for w in ws]
                    assert found[c, p, q] == pytest.approx(np.mean(cells) if cells else 0)


@pytest.mark.parametrize(
    "text",
    [
        'type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.5 }',
        'type: "PSROIPooling" psroi_pooling_param { spatial_scale: 0.5 output_dim: 3 group_size: 2 }',
    ],
)
def test_gradients_of_the_features_are_slopes(text: str) -> None:
    regions = np.array([[0, 0, 0, 7, 9], [1, 2, 4, 10, 8], [0, 3, 3, 3, 3]], float)
    x = RNG.standard_normal((2, 12, 5, 6))

    def of_x(values: np.ndarray) -> np.ndarray:
        return run(text, values, regions, dtype=np.float64)[0]

    layer = OneLayer(text, x, regions, dtype=np.float64)
    (y,) = layer.forward()
    weights = RNG.uniform(0.5, 1.5, y.shape)
    dx, _ = layer.backward(weights)
    for place in RNG.permutation(x.size)[:40]:
        moved = [x.copy(), x.copy()]
        for array, step in zip(moved, (1e-6, -1e-6), strict=True):
            array.ravel()[place] += step
        slope = ((of_x(moved[0]) - of_x(moved[1])) * weights).sum() / 2e-6
        assert dx.ravel()[place] == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        ('type: "ROIPooling"', [(1, 2, 4, 4), (3, 5)], "pooled_h must be at least 1"),
        (WHOLE, [(2, 4, 4), (3, 5)], "needs"),
        (WHOLE, [(1, 2, 4, 4), (3, 4)], "rows of image"),
        (
            'type: "PSROIPooling" psroi_pooling_param { spatial_scale: 1 output_dim: 2 group_size: 3 }',
            [(1, 17, 4, 4), (3, 5)],
            "output_dim channels",
        ),
        (
            'type: "PSROIPooling" psroi_pooling_param { spatial_scale: 1 output_dim: 2 group_size: 0 }',
            [(1, 18, 4, 4), (3, 5)],
            "group_size must be more than 0",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(NetcError, match=message):
        make_layer(text, bottoms=2).infer(shapes)


@pytest.mark.parametrize("image", [-1, 2])
def test_a_region_of_no_image_is_named(image: int) -> None:
    with pytest.raises(NetcError, match="region 1 lies in an image") as error:
        run(WHOLE, np.zeros((2, 1, 3, 3)), [[0, 0, 0, 1, 1], [image, 0, 0, 1, 1]])
    assert error.value.found == image


def test_a_cell_beyond_the_region_that_rounding_lets_in_gets_no_gradient() -> None:
    x = np.zeros((1, 1, 1, 9))
    x[..., 7] = 5  # in single precision 13 bins of 7 / 13 cells end behind cell 7
    text = 'type: "ROIPooling" roi_pooling_param { pooled_h: 1 pooled_w: 13 }'
    layer = OneLayer(text, x, [[0, 0, 0, 6, 0]])
    (y,) = layer.forward()
    assert y[0, 0, 0].tolist() == [0] * 12 + [5]
    assert not layer.backward([[[[0] * 12 + [1]]]])[0].any()


def test_a_region_of_no_numbers_is_named() -> None:
    with pytest.raises(NetcError, match="region 1 is no box of numbers") as error:
        run(WHOLE, np.zeros((2, 1, 3, 3)), [[0, 0, 0, 1, 1], [1, 0, np.nan, 1, 1]])
    assert "base_lr" in error.value.remedy


def test_a_region_far_away_pools_nothing() -> None:
    assert run(WHOLE, np.ones((1, 1, 3, 3)), [[0, 1e30, 1e30, 1e31, 1e31]])[0] == 0
