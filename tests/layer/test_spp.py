"""SPP: as many numbers from every image size, each level a pooling, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from tests.layer.one_layer import OneLayer, check_slopes, make_layer, run

RNG = np.random.default_rng(8)


def spp(options: str) -> str:
    return f'type: "SPP" spp_param {{ {options} }}'


@pytest.mark.parametrize("size", [(4, 4), (7, 9), (13, 4), (64, 31)])
def test_every_image_size_gives_as_many_numbers(size: tuple[int, int]) -> None:
    assert make_layer(spp("pyramid_height: 3")).infer([(2, 5, *size)]) == [(2, 5 * (1 + 4 + 16))]


def test_levels_by_hand() -> None:
    image = np.arange(16).reshape(1, 1, 4, 4)
    y = run(spp("pyramid_height: 3"), image)[0]
    assert y.tolist() == [[15, 5, 7, 13, 15, *range(16)]]
    y = run(spp("pyramid_height: 2 pool: AVE"), image)[0]
    assert y.tolist() == [[7.5, 2.5, 4.5, 10.5, 12.5]]


def test_the_channels_of_a_level_lie_together() -> None:
    image = np.stack([np.arange(4), 10 + np.arange(4)]).reshape(1, 2, 2, 2)
    assert run(spp("pyramid_height: 2"), image)[0].tolist() == [[3, 13, 0, 1, 2, 3, 10, 11, 12, 13]]


def test_one_level_keeps_its_axes() -> None:
    x = RNG.standard_normal((2, 3, 5, 4))
    y = run(spp("pyramid_height: 1"), x)[0]
    assert y.shape == (2, 3, 1, 1)
    np.testing.assert_array_equal(y[:, :, 0, 0], x.max(axis=(2, 3)).astype(np.float32))


@pytest.mark.parametrize("options", ["pyramid_height: 3", "pyramid_height: 2 pool: AVE", "pyramid_height: 1"])
@pytest.mark.parametrize("size", [(4, 4), (7, 9), (5, 13)])
def test_gradients_are_slopes(options: str, size: tuple[int, int]) -> None:
    if size[0] == 5:
        options = options.replace("3", "2")
    check_slopes(spp(options), RNG.permutation(2 * 2 * size[0] * size[1]).reshape(2, 2, *size))


def test_stochastic_levels_draw_anew_each_time() -> None:
    x = RNG.uniform(1, 2, (2, 3, 8, 8))
    layer = OneLayer(spp("pyramid_height: 2 pool: STOCHASTIC"), x)
    first = layer.forward()[0].copy()
    assert np.isin(first, x.astype(np.float32)).all()
    assert not np.array_equal(first, layer.forward()[0])
    assert layer.layer.gives_gradient(0)
    test = make_layer(spp("pyramid_height: 2 pool: STOCHASTIC"), phase=pb.TEST)
    test.infer([x.shape])
    assert not test.gives_gradient(0)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ("", (1, 1, 4, 4), "needs a level"),
        ("pyramid_height: 2", (4, 4), "needs .N, C, H, W"),
        ("pyramid_height: 3", (1, 1, 8, 3), "too small for 4 x 4 cells"),
        ("pyramid_height: 2 pool: STOCHASTIC", (1, 1, 3, 4), "stochastic pooling knows no padding"),
    ],
)
def test_refuses(options: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(NetcError, match=message):
        make_layer(spp(options)).infer([shape])
