"""Interp: sizes, corners that stay, cropping, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import check_slopes, make_layer, run


def text(options: str) -> str:
    return f'type: "Interp" interp_param {{ {options} }}'


@pytest.mark.parametrize(
    ("options", "size", "expected"),
    [
        ("zoom_factor: 8", (60, 60), (473, 473)),
        ("zoom_factor: 2", (1, 5), (1, 9)),
        ("shrink_factor: 2", (9, 10), (5, 5)),
        ("shrink_factor: 2 zoom_factor: 4", (9, 10), (17, 17)),
        ("height: 3 width: 11", (7, 2), (3, 11)),
        ("zoom_factor: 2 pad_beg: -1 pad_end: -2", (8, 9), (9, 11)),
        ("height: 3 width: 3 zoom_factor: 2", (4, 4), (7, 7)),
    ],
)
def test_sizes(options: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert make_layer(text(options)).infer([(2, 3, *size)]) == [(2, 3, *expected)]


def test_a_plane_stays_a_plane_and_corners_stay_in_place() -> None:
    h, w = np.mgrid[:4, :6]
    (y,) = run(text("height: 7 width: 16"), (2 * h + 3 * w)[None, None], dtype=np.float64)
    rows, columns = np.meshgrid(np.linspace(0, 3, 7), np.linspace(0, 5, 16), indexing="ij")
    np.testing.assert_allclose(y[0, 0], 2 * rows + 3 * columns, atol=1e-5)
    assert (y[0, 0, 0, 0], y[0, 0, -1, -1]) == (0, 21)


def test_pads_cut_off() -> None:
    x = np.arange(30.0).reshape(1, 1, 5, 6)
    (y,) = run(text("height: 3 width: 4 pad_beg: -1 pad_end: -1"), x)
    np.testing.assert_array_equal(y[0, 0], x[0, 0, 1:-1, 1:-1])


@pytest.mark.parametrize("options", ["height: 5 width: 3", "zoom_factor: 3 pad_beg: -1", "shrink_factor: 2"])
def test_gradients_are_slopes(options: str) -> None:
    check_slopes(text(options), np.random.default_rng(0).standard_normal((2, 2, 4, 5)))


def test_a_size_that_is_not_used_is_said(caplog: pytest.LogCaptureFixture) -> None:
    make_layer(text("height: 3 width: 3 zoom_factor: 2")).infer([(1, 1, 4, 4)])
    assert "height and width is ignored, because zoom_factor is given" in caplog.text


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ("", (1, 1, 4, 4), "size of the output is not given"),
        ("height: 3", (1, 1, 4, 4), "size of the output is not given"),
        ("height: 0 width: 3", (1, 1, 4, 4), "height must be at least 1"),
        ("zoom_factor: 0", (1, 1, 4, 4), "zoom_factor must be at least 1"),
        ("zoom_factor: 2 pad_beg: 1", (1, 1, 4, 4), "pad_beg can only cut off"),
        ("zoom_factor: 2 pad_beg: -3 pad_end: -1", (1, 1, 4, 4), "cut off the whole image"),
        ("zoom_factor: 2", (4, 4), "needs"),
    ],
)
def test_what_makes_no_sense_is_refused(options: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(NetcError, match=message):
        make_layer(text(options)).infer([shape])
