"""Deconvolution: a convolution's backward pass run forward."""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Buffers, Shape, count
from netc.layer.conv import SlidingFilters
from netc.layer.lowering import Lowering
from netc.layer.registry import register


@register
class Deconvolution(SlidingFilters):
    """y[n,k,h,w] = b[k] + sum over c, p, q of w[c,k,r,s] x[n,c,p,q], with h = p stride + r dilation - pad:
    every input cell stamps the filters of its channel, times its value, onto the output.

    (N, C, P, Q) to (N, K, H, W), H = stride (P - 1) + dilation (R - 1) + 1 - 2 pad; likewise W. With `group`
    g, output group i sees only input group i of g. Any number of spatial axes. Parameters: w (C, K / group,
    R, S), b (K). Every bottom gives a top, by the same filters. With the `bilinear` filler, `group` = C = K
    and no bias it enlarges images.

    (Zeiler et al., "Deconvolutional networks", 2010; Long et al., "Fully convolutional networks for semantic
    segmentation", 2015)
    """

    type = "Deconvolution"
    backward_tops = ()

    # The cross-correlation of the tops (the large images) with the filters to the bottoms (the small ones).
    lowering: Lowering

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape = bottoms[0]
        self.read_window(shape)
        self.check_equal_shapes(bottoms)
        channels, small = shape[self.axis], shape[self.axis + 1 :]
        self.check_groups(channels)
        group, outputs, window = self.options.group, self.options.num_output, self.window
        axes = zip(small, window.stride, window.extent, window.pad, strict=True)
        large = tuple(stride * (size - 1) + extent - 2 * pad for size, stride, extent, pad in axes)
        if any(size < 1 for size in large):
            raise self.error(
                "the padding takes away the whole output",
                "pad_h" if self.options.HasField("pad_h") else "pad",
                expected="an output of at least 1 cell per axis",
                found=large,
                remedy="less pad, which here cuts the output's edges, or a larger kernel or stride",
            )
        self.params = self.filter_params((channels, outputs // group, *window.kernel))
        images = count(shape[: self.axis])
        self.lowering = Lowering.of(images, group, outputs, channels, window, large, small)
        return [(*shape[: self.axis], outputs, *large)] * len(bottoms)

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        for x, y in zip(b.bottoms, b.tops, strict=True):
            self.lowering.backward(xp, None, x, b.params[0], dx=y)
            if self.options.bias_term:
                y += b.params[1].reshape(-1, *[1] * len(self.window.kernel))

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dbias = b.param_grads[1] if self.options.bias_term else None
        for x, dy, dx in zip(b.bottoms, b.top_grads, b.bottom_grads, strict=True):
            if dy is None:
                if dx is not None:
                    dx[...] = 0
                continue
            if dbias is not None:
                dbias += dy.sum(axis=tuple(axis for axis in range(dy.ndim) if axis != self.axis))
            if b.param_grads[0] is not None:
                self.lowering.backward(xp, dy, x, b.params[0], dweight=b.param_grads[0])
            if dx is not None:
                self.lowering.forward(xp, dy, b.params[0], dx)
