"""What a BatchNorm and the layers that follow it come to: one normalisation, and its running statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from netc.backends.cpu.activation import relu_can_end
from netc.backends.cpu.onednn import kinds
from netc.backends.normalising import factor_and_bias, is_sum_of_two
from netc.graph import Node
from netc.layer import Array
from netc.layer.norm import BatchNorm


@dataclass(frozen=True)
class Normalisation:
    """y = relu(scale (x - mean) / sqrt(variance + eps) + shift + residual), each part where the chain has it.

    scale, shift: the parameters' places among those of the chain; adds: whether there is a residual.
    """

    layer: BatchNorm
    scale: int | None
    shift: int | None
    adds: bool
    relu: bool

    @classmethod
    def of(cls, nodes: Sequence[Node]) -> Normalisation | None:
        """What the layers of a chain come to; None where they do not come to one normalisation."""
        layers = {node.type: node.layer for node in nodes}
        layer, scale, added, relu = (layers.get(type_) for type_ in ("BatchNorm", "Scale", "Eltwise", "ReLU"))
        assert isinstance(layer, BatchNorm)
        places = factor_and_bias(layer, scale)
        if places is None:
            return None
        if (added and not is_sum_of_two(added)) or (relu and relu.options.negative_slope):
            return None
        if added and relu and not relu_can_end(nodes):
            return None
        return cls(layer, *places, added is not None, relu is not None)

    @property
    def flags(self) -> int:
        """What oneDNN is told."""
        flags = 0 if self.layer.from_batch else kinds.GIVEN_STATISTICS
        flags |= 0 if self.scale is None else kinds.WITH_SCALE
        flags |= 0 if self.shift is None else kinds.WITH_SHIFT
        return flags | (kinds.THEN_RELU if self.relu else 0)


def take_global(sums: Sequence[Array], mean: Array, variance: Array) -> None:
    """The running mean and variance: the sums divided by their weight, 0 where it is 0."""
    weight = sums[2][0]
    share = 1 / weight if weight else weight
    np.multiply(sums[0], share, out=mean)
    np.multiply(sums[1], share, out=variance)


def take_in(layer: BatchNorm, scratch: Array, sums: Sequence[Array], mean: Array, variance: Array) -> None:
    """Adds the statistics of one batch to the running sums, as BatchNorm does."""
    fraction = np.float32(layer.options.moving_average_fraction)
    cells = layer.cells[0] * layer.cells[2]
    for blob in sums:
        np.multiply(blob, fraction, out=blob)
    np.add(sums[0], mean, out=sums[0])
    np.multiply(variance, np.float32(cells / (cells - 1) if cells > 1 else 1), out=scratch)
    np.add(sums[1], scratch, out=sums[1])
    np.add(sums[2], 1, out=sums[2])


def scale_and_shift(
    sums: Sequence[Array], eps: float, scale: Array | None, shift: Array | None, factor: Array, summand: Array
) -> None:
    """factor = scale / sqrt(variance + eps), summand = shift - factor mean, with the running statistics."""
    take_global(sums, summand, factor)
    np.add(factor, np.float32(eps), out=factor)
    np.sqrt(factor, out=factor)
    np.divide(1 if scale is None else scale, factor, out=factor)
    np.multiply(summand, factor, out=summand)
    np.subtract(0 if shift is None else shift, summand, out=summand)
