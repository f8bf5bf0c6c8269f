"""Where pixels of one top lie in another, and the crops that follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import netc
from netc import NetcError
from netc import layers as L
from netc.coord_map import UndefinedMapException, coord_map, coord_map_from_to, crop


def image() -> Any:
    return L.Input(shape={"dim": [1, 1, 40, 40]})


@pytest.mark.parametrize(
    ("make", "axis", "scale", "offset"),
    [
        (lambda x: L.Convolution(x, num_output=1, kernel_size=3), 1, 1, -1),
        (lambda x: L.Convolution(x, num_output=1, kernel_size=3, pad=1), 1, 1, 0),
        (lambda x: L.Convolution(x, num_output=1, kernel_size=3, dilation=2, stride=2), 1, 1 / 2, -1),
        (lambda x: L.Convolution(x, convolution_param={"kernel_size": 5, "stride": 1}), 1, 1, -2),
        (lambda x: L.Convolution(x, kernel_size=[3, 5], stride=[1, 2]), 1, [1, 1 / 2], [-1, -1]),
        (lambda x: L.Pooling(x, kernel_size=2, stride=2), 1, 1 / 2, -1 / 4),
        (lambda x: L.Deconvolution(x, convolution_param={"kernel_size": 4, "stride": 2}), 1, 2, 1.5),
        (lambda x: L.Deconvolution(x, kernel_size=4, stride=2, pad=1), 1, 2, 0.5),
        (lambda x: L.ReLU(x), None, 1, 0),
        (lambda x: L.Crop(x, x, axis=2, offset=3), 1, 1, -3),
    ],
)
def test_a_pixel_moves_as_its_layer_says(
    make: Callable[[Any], Any], axis: int | None, scale: Any, offset: Any
) -> None:
    x = image()
    found = coord_map_from_to(x, make(x))
    assert found[0] == axis
    np.testing.assert_allclose(found[1], np.broadcast_to(scale, np.shape(found[1])))
    np.testing.assert_allclose(found[2], np.broadcast_to(offset, np.shape(found[2])))


def test_the_way_back_is_the_inverse() -> None:
    x = image()
    y = L.Pooling(L.Convolution(x, num_output=1, kernel_size=3), kernel_size=2, stride=2)
    _, scale, offset = coord_map_from_to(x, y)
    _, back_scale, back_offset = coord_map_from_to(y, x)
    # y = (x - 1) / 2 - 1/4
    np.testing.assert_allclose([scale, offset], [[1 / 2], [-3 / 4]])
    np.testing.assert_allclose([back_scale, back_offset], [[2], [3 / 2]])


def test_tops_meet_at_their_nearest_common_ancestor() -> None:
    x = image()
    stem = L.Convolution(x, num_output=1, kernel_size=5)
    left, right = L.ReLU(stem), L.Convolution(stem, num_output=1, kernel_size=3)
    axis, scale, offset = coord_map_from_to(left, right)
    assert (axis, scale.tolist(), offset.tolist()) == (1, [1], [-1])


@pytest.mark.parametrize(("stride", "offset"), [(2, 0), (4, -1)])
def test_enlarging_undoes_shrinking_up_to_the_border(stride: int, offset: int) -> None:
    x = image()
    y = L.Pooling(L.Convolution(x, num_output=1, kernel_size=3), kernel_size=stride, stride=stride)
    up = L.Deconvolution(y, num_output=1, kernel_size=2 * stride, stride=stride)
    assert coord_map_from_to(up, x) == (1, 1, offset)


def test_every_bottom_of_a_layer_is_mapped_alike() -> None:
    x, other = image(), image()
    y, other_y = L.Convolution(x, other, ntop=2, num_output=1, kernel_size=5, stride=2)
    assert coord_map_from_to(x, y) == coord_map_from_to(other, other_y) == (1, 1 / 2, -1)


def test_scores_are_cropped_to_the_image() -> None:
    """As a fully convolutional net does: padded by 100, shrunk by 4, enlarged by 4."""
    n = netc.NetSpec()
    n.data = L.Input(shape={"dim": [1, 1, 40, 40]})
    n.conv = L.Convolution(n.data, num_output=1, kernel_size=3, pad=20)
    n.pool = L.Pooling(n.conv, kernel_size=4, stride=4)
    n.up = L.Deconvolution(n.pool, num_output=1, kernel_size=4, stride=4)
    n.score = crop(n.up, n.data)
    options = n.to_proto().layer[-1].crop_param
    assert (options.axis, list(options.offset)) == (2, [19])
    net = netc.Net(n.to_proto(), netc.TEST)
    assert net.blobs["score"].shape == (1, 1, 40, 40)


def test_a_crop_between_tops_without_spatial_layers_takes_the_usual_axis() -> None:
    x = image()
    assert crop(L.ReLU(x), x).fn.params["crop_param"] == {"axis": 2, "offset": [0]}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: crop(L.Pooling(x, kernel_size=2, stride=2), x), "does not change the scale"),
        (lambda x: crop(L.Convolution(x, num_output=1, kernel_size=3), x), "before the first pixel"),
        (
            lambda x: crop(L.Convolution(x, num_output=1, kernel_size=2, pad=1), x),
            "between two pixels",
        ),
        (lambda x: crop(L.InnerProduct(x, num_output=3), x), "no coordinate map leads"),
        (lambda x: coord_map_from_to(x, L.Convolution(x, kernel_h=3, kernel_w=3)), "needs kernel_size"),
        (
            lambda x: coord_map_from_to(
                x, L.Convolution(L.Convolution(x, kernel_size=3), kernel_size=3, axis=2)
            ),
            "do not agree on their spatial axes",
        ),
    ],
)
def test_what_has_no_place_is_refused(make: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(NetcError, match=message):
        make(image())


def test_a_layer_without_a_map_is_named() -> None:
    with pytest.raises(UndefinedMapException, match="a Softmax layer has no coordinate map"):
        coord_map(L.Softmax(image()).fn)
