"""Convolutions of single cells with a stride: oneDNN's gradient of the weights writes beyond its scratchpad
where there are fewer channels than a vector has, and is wrong with several threads."""

from __future__ import annotations

import pytest

from netc.backends.cpu.conv import make_convolution
from netc.backends.cpu.deconv import make_deconvolution
from netc.backends.form import Maker
from tests.cpu.form_case import LAYOUTS, PLAIN, FormCase, build

MAKERS = {"Convolution": make_convolution, "Deconvolution": make_deconvolution}
SIZES = {2: (32, 32), 3: (15, 16)}


def check(type_: str, shape: tuple[int, ...], options: str, layout: str, wanted: bool) -> None:
    make: Maker = MAKERS[type_]
    layer = f'name: "c" type: "{type_}" bottom: "x0" top: "y" convolution_param {{ {options} }}'
    case = FormCase(make, build(f"layer {{ {layer} }}", shape), layout, wanted=[wanted])
    if case.form is None:  # oneDNN has nothing that is right: the layer's own meaning runs
        assert layout == PLAIN
    else:
        case.check()


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stride", SIZES)
@pytest.mark.parametrize("channels", [3, 6, 9])
@pytest.mark.parametrize("type_", MAKERS)
def test_filters_of_single_cells_stay_within_their_memory(type_, channels, stride, layout, wanted):
    options = f"num_output: 16 kernel_size: 1 stride: {stride}"
    check(type_, (2, channels, *SIZES[stride]), options, layout, wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("type_", MAKERS)
def test_groups_of_single_cells_stay_within_their_memory(type_, layout):
    options = "num_output: 10 kernel_size: 1 stride: 2 group: 2"
    check(type_, (2, 6, 32, 32), options, layout, wanted=False)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("outputs", [1, 5])
def test_enlarging_to_few_channels_stays_within_its_memory(outputs, layout):
    options = f"num_output: {outputs} kernel_size: 1 stride: 2"
    check("Deconvolution", (2, 16, 16, 16), options, layout, wanted=False)
