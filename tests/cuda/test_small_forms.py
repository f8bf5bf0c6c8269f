"""Axpy, Tile and Crop, which have no kernels of their own, agree with their layers."""

from __future__ import annotations

import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.layers import axpy, crop, tile
from netc.backends.form import NHWC, PLAIN, Mode
from tests.cuda.one_chain import OneChain, chain_of, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]


@pytest.mark.parametrize("wanted", [(True, True, True), (False, True, False), (True, False, True)])
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (3, 5, 7, 3), (1, 1, 1, 1)])
def test_axpy(device: EmulatedDevice, shape: tuple[int, ...], wanted: tuple[bool, ...]) -> None:
    bottoms = drawn(*shape[:2], 1, 1), drawn(*shape, seed=1), drawn(*shape, seed=2)
    form = OneChain(device, axpy.FORMS["Axpy",], 'type: "Axpy"', *bottoms, wanted=list(wanted))
    form.check(drawn(*shape, seed=3), atol=1e-5)


@pytest.mark.parametrize(("shape", "axis", "tiles"), [
    ((2, 3, 4), 1, 3), ((5, 1), 1, 70), ((2, 8, 4), 2, 2), ((3, 4), 0, 2), ((1, 130, 6), 1, 1),
])  # fmt: skip
def test_tile(device: EmulatedDevice, shape: tuple[int, ...], axis: int, tiles: int) -> None:
    text = f'type: "Tile" tile_param {{ axis: {axis} tiles: {tiles} }}'
    form = OneChain(device, tile.FORMS["Tile",], text, drawn(*shape))
    form.check(drawn(*form.form.outputs[0].shape, seed=1))


@pytest.mark.parametrize("layout", [PLAIN, NHWC])
@pytest.mark.parametrize("skew", [0, 4])
@pytest.mark.parametrize(("shape", "reference", "options"), [
    ((2, 3, 7, 8), (1, 1, 4, 5), "offset: 2"),
    ((2, 3, 8, 8), (2, 3, 4, 8), "offset: 1 offset: 0"),
    ((3, 5, 4, 4), (2, 3, 4, 4), "axis: 0 offset: 1 offset: 2 offset: 0 offset: 0"),
    ((2, 9), (1, 9), "axis: 1"),
])  # fmt: skip
def test_crop(
    device: EmulatedDevice,
    shape: tuple[int, ...],
    reference: tuple[int, ...],
    options: str,
    skew: int,
    layout: str,
) -> None:
    text = f'type: "Crop" crop_param {{ {options} }}'
    bottoms = drawn(*shape), drawn(*reference)
    form = OneChain(device, crop.FORMS["Crop",], text, *bottoms, skew=skew, layout=layout)
    assert form.form.top_layouts == [layout if len(shape) == 4 else PLAIN]
    form.check(drawn(*form.form.outputs[0].shape, seed=1), rtol=0, atol=0)


def test_crops_of_many_axes_are_left_to_the_layer(fast: EmulatedDevice) -> None:
    nodes = chain_of('type: "Crop"', (1, 2, 1, 2, 1, 2), (1, 1, 1, 1, 1, 1))
    assert crop.FORMS["Crop",](nodes, Mode(), fast) is None
