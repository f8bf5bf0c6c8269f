"""Im2col agrees with its layer for every stride, pad, dilation and shape of window."""

from __future__ import annotations

import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.layers import im2col
from netc.backends.form import Mode
from tests.cuda.one_chain import OneChain, chain_of, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

IM2COL = im2col.FORMS["Im2col",]


def text_of(options: str) -> str:
    return f'type: "Im2col" convolution_param {{ {options} }}'


@pytest.mark.parametrize("options", [
    "kernel_size: 1",
    "kernel_size: 3 pad: 1",
    "kernel_h: 2 kernel_w: 3 stride_h: 3 stride_w: 2 pad_h: 1 pad_w: 0",
    "kernel_size: 3 dilation: 2 pad: 2 stride: 2",
    "kernel_size: 2 stride: 3",  # cells that no window reads
])  # fmt: skip
@pytest.mark.parametrize("shape", [(2, 3, 7, 6), (1, 1, 5, 5)])
def test_windows(device: EmulatedDevice, shape: tuple[int, ...], options: str) -> None:
    form = OneChain(device, IM2COL, text_of(options), drawn(*shape))
    form.check(drawn(*form.form.outputs[0].shape, seed=1))


def test_many_channels(fast: EmulatedDevice) -> None:
    form = OneChain(fast, IM2COL, text_of("kernel_size: 3 pad: 1 stride: 2"), drawn(2, 130, 15, 17))
    form.check(drawn(*form.form.outputs[0].shape, seed=1))


def test_one_spatial_axis_and_three(fast: EmulatedDevice) -> None:
    form = OneChain(fast, IM2COL, text_of("kernel_size: 3 pad: 1 stride: 2"), drawn(2, 3, 9))
    form.check(drawn(*form.form.outputs[0].shape, seed=1))
    nodes = chain_of(text_of("kernel_size: 2"), (1, 1, 3, 3, 3))
    assert IM2COL(nodes, Mode(), fast) is None
