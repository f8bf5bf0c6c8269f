"""The sizes of a convolution as oneDNN wants them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from netc.backends.cpu.onednn.functions import dims
from netc.layer import Shape
from netc.layer.base import count
from netc.layer.conv import SlidingFilters


@dataclass(frozen=True)
class Geometry:
    """Filters (G, K, C, *kernel) that slide over images, each axis with its stride and padding.

    bottom, top: (N, channels, *spatial); weight: (G, K, C, *kernel), without G where there is one group;
    weight_strides: where its elements lie in the layer's parameter.
    """

    bottom: Shape
    top: Shape
    weight: Shape
    weight_strides: Shape
    stride: Shape
    gaps: Shape  # cells between two cells of the kernel: dilation - 1
    before: Shape
    behind: Shape

    @property
    def windows(self) -> tuple[Any, Any, Any, Any]:
        """Strides, gaps and paddings as C arrays."""
        return dims(self.stride), dims(self.gaps), dims(self.before), dims(self.behind)

    @property
    def bias(self) -> Shape:
        return (self.top[1],)

    @property
    def is_pointwise(self) -> bool:
        """Whether it is a product of matrices, with a row for each pixel of an image."""
        ones = len(self.bottom) == len(self.weight) == 4 and count(self.weight[2:]) == 1
        return ones and set(self.stride) == {1} and not any((*self.before, *self.behind))

    @property
    def is_thinned(self) -> bool:
        """Whether every filter sees one cell at a time, and leaves out some between them."""
        kernel = self.weight[-len(self.stride) :]
        return set(kernel) == {1} and set(self.stride) != {1}

    @property
    def flops(self) -> int:
        """Multiplications and additions of a convolution of the bottom."""
        return 2 * self.top[0] * count(self.top[2:]) * count(self.weight)


def convolution(layer: SlidingFilters) -> Geometry | None:
    """The geometry of a layer that gathers: the kernel slides over the bottom. None where oneDNN has no such
    thing."""
    bottom, top = layer.bottom_shapes[0], layer.top_shapes[0]
    filters, channels, *kernel = layer.params[0].shape
    groups = bottom[layer.axis] // channels
    return _geometry(layer, bottom, top, (groups, filters // groups, channels, *kernel), spread=False)


def deconvolution(layer: SlidingFilters) -> Geometry | None:
    """The geometry of a layer that scatters: the kernel slides over the top."""
    bottom, top = layer.bottom_shapes[0], layer.top_shapes[0]
    groups = layer.options.group
    channels, filters, *kernel = layer.params[0].shape
    return _geometry(layer, bottom, top, (groups, filters, channels // groups, *kernel), spread=True)


def _geometry(
    layer: SlidingFilters, bottom: Shape, top: Shape, weight: Shape, *, spread: bool
) -> Geometry | None:
    """spread: in the parameter the bottom's channels come before the top's."""
    window, axis = layer.window, layer.axis
    axes = len(bottom) - axis - 1
    if not 1 <= axes <= 3:
        return None
    images = count(bottom[:axis])
    groups, filters, channels, *kernel = weight
    cells = count(kernel)
    outer = (filters * channels * cells,)
    pair = (cells, filters * cells) if spread else (channels * cells, cells)
    inner = tuple(count(kernel[i + 1 :]) for i in range(axes))
    strides = (*outer, *pair, *inner)
    first = 0 if groups > 1 else 1
    slid, steps = (top, bottom) if spread else (bottom, top)
    sizes = zip(slid[axis + 1 :], steps[axis + 1 :], window.stride, window.extent, window.pad, strict=True)
    # A kernel that is too large by less than one stride overhangs, in Caffe, and reads zeros.
    behind = tuple(
        max(pad, (out - 1) * stride + extent - size - pad) for size, out, stride, extent, pad in sizes
    )
    return Geometry(
        (images, *bottom[axis:]),
        (images, *top[axis:]),
        weight[first:],
        strides[first:],
        window.stride,
        tuple(dilation - 1 for dilation in window.dilation),
        window.pad,
        behind,
    )
