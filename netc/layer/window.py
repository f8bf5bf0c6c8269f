"""How a kernel slides over the spatial axes of a blob: output sizes, and where each kernel position meets the
input."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from netc.layer.base import Shape

Slices = tuple[slice, ...]


@dataclass(frozen=True)
class Window:
    """A kernel, its steps, the zeros around the input and the gaps in the kernel, one number each per spatial
    axis."""

    kernel: Shape
    stride: Shape
    pad: Shape
    dilation: Shape

    @property
    def extent(self) -> Shape:
        """The cells that a kernel spans, gaps included: dilation (kernel - 1) + 1."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def output(self, spatial: Shape) -> Shape:
        """(W + 2 pad - extent) / stride + 1 positions per axis; below 1 where the kernel does not fit.

        The division drops the fraction toward zero, as C's does: a kernel that is too large by less than one
        stride still has one position, whose overhang reads zeros.
        """
        axes = zip(spatial, self.pad, self.extent, self.stride, strict=True)
        return tuple(math.trunc((size + 2 * pad - extent) / stride) + 1 for size, pad, extent, stride in axes)

    def positions(self, spatial: Shape, output: Shape) -> Iterator[tuple[int, Shape, Slices, Slices]]:
        """For each kernel position in row-major order: its number, its index, the outputs and the inputs that
        it joins.

        The slices are over the spatial axes, of equal lengths; cells of the padding are left out.
        """
        for number, index in enumerate(product(*map(range, self.kernel))):
            axes = zip(index, self.dilation, self.pad, self.stride, spatial, output, strict=True)
            met = [overlap(i * d - p, s, size, out) for i, d, p, s, size, out in axes]
            if all(outputs.stop > outputs.start for outputs, _ in met):
                yield number, index, tuple(outputs for outputs, _ in met), tuple(inputs for _, inputs in met)


def overlap(offset: int, stride: int, size: int, output: int) -> tuple[slice, slice]:
    """The outputs q of `output`, and the inputs q * stride + offset, for which the input is one of `size`
    real cells."""
    first = max(0, -(offset // stride))
    last = min(output - 1, (size - 1 - offset) // stride)
    if last < first:
        return slice(0, 0), slice(0, 0)
    return slice(first, last + 1), slice(first * stride + offset, last * stride + offset + 1, stride)
