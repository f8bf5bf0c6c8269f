"""Axpy: a number per channel and image times x, plus y."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import check_slopes, make_layer, run

RNG = np.random.default_rng(2)


@pytest.mark.parametrize("scale", [(2, 3), (2, 3, 1, 1)])
@pytest.mark.parametrize("cells", [(4, 5), (1, 1), (7,)])
def test_scale_and_sum(scale: tuple[int, ...], cells: tuple[int, ...]) -> None:
    a, x, y = (RNG.standard_normal(shape) for shape in (scale, (2, 3, *cells), (2, 3, *cells)))
    expected = a.reshape(2, 3, *[1] * len(cells)) * x + y
    np.testing.assert_allclose(run('type: "Axpy"', a, x, y, dtype=np.float64)[0], expected)
    check_slopes('type: "Axpy"', a, x, y)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 4), (2, 3, 4, 5), (2, 3, 4, 5)), "one number for each channel"),
        (((2, 3, 4, 5), (2, 3, 4, 5), (2, 3, 4, 5)), "one number for each channel"),
        (((2, 3), (2, 3, 4, 5), (2, 3, 5, 4)), "same shape"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(NetcError, match=message):
        make_layer('type: "Axpy"', bottoms=3).infer(list(shapes))
