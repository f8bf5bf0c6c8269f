"""Crop: which box is cut, where its gradient goes, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import gradients, make_layer, run

X = np.arange(2 * 3 * 6 * 7).reshape(2, 3, 6, 7)


def crop(options: str = "") -> str:
    return f'type: "Crop" crop_param {{ {options} }}'


@pytest.mark.parametrize(
    ("options", "reference", "box"),
    [
        ("", (9, 9, 4, 5), np.s_[:, :, :4, :5]),
        ("offset: 2", (1, 1, 4, 5), np.s_[:, :, 2:6, 2:7]),
        ("offset: 1 offset: 0", (1, 1, 4, 5), np.s_[:, :, 1:5, :5]),
        ("axis: -1 offset: 3", (1, 1, 1, 2), np.s_[..., 3:5]),
        ("axis: 0 offset: 1 offset: 0 offset: 2 offset: 3", (1, 2, 3, 4), np.s_[1:, :2, 2:5, 3:]),
        ("", (2, 3, 6, 7), np.s_[...]),
        ("", (2, 3, 0, 7), np.s_[:, :, :0]),
    ],
)
def test_the_box_is_cut_and_its_gradient_put_back(
    options: str, reference: tuple[int, ...], box: tuple[slice, ...]
) -> None:
    y = run(crop(options), X, np.zeros(reference))[0]
    np.testing.assert_array_equal(y, X[box])
    dx, dreference = gradients(crop(options), X, np.zeros(reference), top_grads=[y + 1])
    expected = np.zeros(X.shape)
    expected[box] = y + 1
    np.testing.assert_array_equal(dx, expected)
    assert not dreference.any()  # its values do not count, only its sizes


@pytest.mark.parametrize(
    ("options", "reference", "message"),
    [
        ("offset: 4", (1, 1, 4, 5), "beyond axis 2"),
        ("offset: 0 offset: 3", (1, 1, 4, 5), "beyond axis 3"),
        ("offset: 1 offset: 1 offset: 1", (1, 1, 4, 5), "once, or once for each axis"),
        ("", (4, 5), "as many axes"),
        ("axis: 4", (1, 1, 4, 5), "axis 4 does not exist"),
    ],
)
def test_refuses(options: str, reference: tuple[int, ...], message: str) -> None:
    with pytest.raises(NetcError, match=message):
        make_layer(crop(options), bottoms=2).infer([X.shape, reference])
