"""Which layers behind a BatchNorm are part of one normalisation, for every backend's forms."""

from __future__ import annotations

from typing import Final

from netc.layer import Layer
from netc.layer.eltwise import Eltwise
from netc.layer.norm import BatchNorm
from netc.layer.scale import Scale
from netc.proto import netc_pb2 as pb

STATISTICS: Final = 3  # BatchNorm's first parameters: sums of means, sums of variances, their weight

Places = tuple[int | None, int | None]  # of factor and bias among a chain's parameters


def factor_and_bias(layer: BatchNorm, scale: Layer | None) -> Places | None:
    """Where each channel's factor and bias are among the parameters of a BatchNorm and the Scale that may
    follow it, None for one that is not there; None for both where the Scale is not one for each channel."""
    learned = len(layer.params) - STATISTICS
    if scale is not None:
        assert isinstance(scale, Scale)
        over_channels = scale.axes == layer.cells and scale.operand == layer.params[0].shape
        if learned or len(scale.bottom_shapes) > 1 or not over_channels:
            return None
        learned = len(scale.params)
    return STATISTICS if learned > 0 else None, STATISTICS + 1 if learned > 1 else None


def is_sum_of_two(layer: Layer) -> bool:
    """Whether an Eltwise layer is the plain sum of two bottoms. In place Caffe's sum is another one."""
    assert isinstance(layer, Eltwise)
    adds = layer.operation == pb.EltwiseParameter.SUM and not layer.runs_in_place
    return adds and list(layer.coefficients) == [1, 1]
