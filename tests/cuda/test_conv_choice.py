"""Every kernel that a tuner may choose for a convolution is right, and the choice leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from netc.backends.cuda.compilation import Kernel
from netc.backends.cuda.convolution import choice as conv_choice
from netc.backends.cuda.convolution.choice import candidates
from netc.backends.cuda.convolution.form import make_convolution
from netc.backends.cuda.convolution.shape import ConvShape, Layouts
from netc.backends.cuda.device import Grid
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.tuning import timings
from netc.backends.form import NHWC, Mode
from tests.cuda.clocked import ClockedDevice
from tests.cuda.one_chain import OneChain, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

DIRECTIONS = ("forward", "backward_data", "backward_weights")


def layer(type_: str, options: str) -> str:
    return f'type: "{type_}" top: "y" convolution_param {{ {options} }}'


THREE = layer("Convolution", "num_output: 70 kernel_size: 3 pad: 1")
STRIDED = layer("Convolution", "num_output: 70 kernel_size: 3 pad: 1 stride: 2")
DEPTHWISE = layer("DepthwiseConvolution", "num_output: 5 group: 5 kernel_size: 3")
ENLARGING = layer("Deconvolution", "num_output: 6 kernel_size: 4 stride: 2")
# AlexNet's, VGG's and ResNet's kinds of convolution.
SHAPES = {
    "first": ConvShape(128, 3, 227, 227, 96, 11, 11, 55, 55, stride=(4, 4)),
    "groups": ConvShape(128, 96, 27, 27, 256, 5, 5, 27, 27, pad=(2, 2), group=2),
    "3x3": ConvShape(64, 64, 224, 224, 64, 3, 3, 224, 224, pad=(1, 1)),
    "1x1": ConvShape(64, 256, 56, 56, 64, 1, 1, 56, 56),
    "depthwise": ConvShape(64, 32, 112, 112, 32, 3, 3, 112, 112, pad=(1, 1), group=32),
}


def one_of(device: EmulatedDevice, text: str, mode: Mode | None = None, images: int = 2) -> OneChain:
    bottom, filters = (images, 4, 9, 9), (70, 4, 3, 3)
    if text == DEPTHWISE:
        bottom, filters = (images, 5, 8, 7), (5, 1, 3, 3)
    if text == ENLARGING:
        bottom, filters = (images, 3, 5, 4), (3, 6, 4, 4)
    params = [drawn(*filters, seed=1), drawn(filters[1 if text == ENLARGING else 0], seed=2)]
    return OneChain(device, make_convolution, text, drawn(*bottom), params=params, mode=mode)


TOLERANCES = {"fp32": 1e-4, "tf32": 4e-3, "bf16": 3e-2, "fp16": 4e-3}


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize(
    ("text", "math"),
    [
        (THREE, "fp32"),
        (STRIDED, "fp32"),
        (ENLARGING, "fp32"),
        (THREE, "tf32"),
        (STRIDED, "bf16"),
    ],
)
def test_whatever_is_chosen_agrees_with_the_layer(
    fast: EmulatedDevice, monkeypatch: pytest.MonkeyPatch, text: str, math: str, place: int
) -> None:
    """In every direction the candidate of this place, or the last."""
    made = []

    def choose(device: Any, mode: Mode, work: str, ways: Mapping[str, Any], sizes: Any) -> str:
        made.append(list(ways)[min(place, len(ways) - 1)])
        return made[-1]

    monkeypatch.setattr(conv_choice, "choose", choose)
    monkeypatch.setattr(fast, "properties", replace(fast.properties, processors=4))
    one = one_of(fast, text, Mode(math=math), images=8)
    assert len(made) == len(set(DIRECTIONS))
    tolerance = TOLERANCES[math]
    one.check(drawn(*one.form.outputs[0].shape, seed=3), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("math", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_there_are_several_candidates_and_the_first_is_the_rules(
    fast: EmulatedDevice, monkeypatch: pytest.MonkeyPatch, shape: str, math: str
) -> None:
    monkeypatch.setattr(fast, "properties", replace(fast.properties, processors=132))
    for direction in DIRECTIONS:
        names = [candidate.name for candidate in candidates(direction, fast, SHAPES[shape], math)]
        assert len(set(names)) == len(names)
        few_rows = math == "fp32" and (shape, direction) == ("first", "backward_data")  # three, of 32
        assert (len(names) == 1) == (shape == "depthwise" or few_rows)
        images = direction != "backward_weights"
        assert ("winograd 2x2" in names) == (shape == "3x3" and math == "fp32" and images)
        if shape == "3x3" and math == "fp32" and images:
            assert names[0] == "winograd 2x2"


@pytest.mark.parametrize("math", ["tf32", "bf16", "fp16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_channels_last_have_candidates_of_their_own(
    fast: EmulatedDevice, monkeypatch: pytest.MonkeyPatch, shape: str, math: str
) -> None:
    monkeypatch.setattr(fast, "properties", replace(fast.properties, processors=132))
    for direction in DIRECTIONS:
        found = candidates(direction, fast, SHAPES[shape], math, Layouts(NHWC, NHWC))
        names = [candidate.name for candidate in found]
        assert len(set(names)) == len(names)
        if shape != "depthwise":
            assert len(names) > 1
            assert {candidate.family for candidate in found} == {f"last {math}"}


def test_plain_images_are_turned_only_where_the_room_for_it_is_small(fast: EmulatedDevice) -> None:
    small, large = SHAPES["1x1"], replace(SHAPES["3x3"], n=200)
    for shape, some in ((small, True), (large, False)):
        families = {candidate.family for candidate in candidates("forward", fast, shape, "tf32")}
        assert families == {"mma tf32", *(("last tf32",) if some else ())}
    assert {candidate.family for candidate in candidates("forward", fast, small, "fp32")} == {"simt"}


class FavouringDevice(ClockedDevice):
    """On which kernels take a second, those whose names hold `favourite` a millisecond."""

    favourite = ""

    def _run_launch(self, kernel: Kernel, grid: Grid, block: Grid, *more: Any) -> None:
        self.now += 1e-3 if self.favourite in kernel.name else 1
        super()._run_launch(kernel, grid, block, *more)


@pytest.fixture
def favouring(timings_folder: Path) -> Iterator[FavouringDevice]:
    device = FavouringDevice()
    yield device
    device.close()


@pytest.mark.parametrize("favourite", ["32x128", "64x128", "winograd"])
def test_the_fastest_kernels_run(favouring: FavouringDevice, favourite: str) -> None:
    favouring.favourite = favourite
    one = one_of(favouring, THREE)
    kernels = one.form.kernels
    assert favourite in kernels.forward.name
    # Backward there are four rows, for which 64 would be mostly padding.
    assert (favourite if favourite == "winograd" else "32x128") in kernels.backward_data.name
    one.check(drawn(2, 70, 9, 9, seed=3), rtol=1e-4, atol=1e-5)


def test_a_choice_keeps_no_memory(favouring: FavouringDevice) -> None:
    before = favouring.free_bytes()
    make_convolution(one_of(EmulatedDevice(), STRIDED).form.nodes, Mode(), favouring)
    favouring._arrays.free_unused()
    assert favouring.now > 0
    assert favouring.free_bytes() == before


def test_only_directions_that_run_are_timed(favouring: FavouringDevice) -> None:
    make_convolution(one_of(favouring, DEPTHWISE).form.nodes, Mode(), favouring)
    path = timings.Timings(favouring.properties).path
    assert not path.exists()  # there is one way only
    nodes = one_of(EmulatedDevice(), STRIDED).form.nodes
    make_convolution(nodes, Mode(deterministic=True), favouring)
    assert not path.exists()
    make_convolution(nodes, Mode(backward=False), favouring)
    assert path.read_text().count("forward fp32 ConvShape") == 1
    assert "backward" not in path.read_text()
