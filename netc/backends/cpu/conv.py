"""Convolution on oneDNN, alone or with the sum and the ReLU that follow it."""

from __future__ import annotations

from functools import partial
from typing import Final

from netc.backends.cpu.filters import make_filters
from netc.backends.cpu.geometry import convolution
from netc.backends.form import Maker

CONVOLUTIONS: Final = ("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")

make_convolution: Maker = partial(make_filters, "convolution", convolution)

FORMS: dict[tuple[str, ...], Maker] = {
    (type_, *followers): make_convolution
    for type_ in CONVOLUTIONS
    for followers in ((), ("ReLU",), ("Eltwise",), ("Eltwise", "ReLU"))
}
