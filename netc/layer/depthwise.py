"""Depthwise convolutions: every channel is filtered by itself. (Howard et al., "MobileNets", 2017)"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

from netc.layer.base import Array, Buffers, ParamBlob, Shape, count
from netc.layer.conv import Convolution, SlidingFilters
from netc.layer.registry import register
from netc.layer.window import Window

CELLS_AT_ONCE: Final = 1 << 17  # outputs at a time: they stay in the caches from kernel position to position


class ChannelFilters:
    """The cross-correlation of each channel of (N, C, *spatial) with its own filter (C, 1, *kernel), and its
    gradients.

    It goes from kernel position to kernel position: there is no sum over channels that a matrix product could
    take.
    """

    def __init__(self, window: Window, spatial: Shape, output: Shape) -> None:
        self.window, self.spatial, self.output = window, spatial, output

    def forward(self, xp: ModuleType, x: Array, weight: Array, y: Array, bias: Array | None) -> None:
        """y = x filtered, plus one bias per channel."""
        taps = self._taps(weight)
        for part in self._parts(y):
            out = y[part]
            out[...] = 0 if bias is None else bias.reshape(-1, *[1] * (y.ndim - 2))
            for number, outputs, inputs in self._joins():
                out[outputs] += x[part][inputs] * taps[number]

    def backward(
        self, xp: ModuleType, x: Array, dy: Array, weight: Array, dx: Array | None, dweight: Array | None
    ) -> None:
        """Writes dx and adds to dweight, each where it is wanted; x is read for dweight only."""
        taps = self._taps(weight)
        if dx is not None:
            dx[...] = 0
        for part in self._parts(dy):
            for number, outputs, inputs in self._joins():
                if dx is not None:
                    dx[part][inputs] += dy[part][outputs] * taps[number]
                if dweight is not None:
                    product = dy[part][outputs] * x[part][inputs]
                    summed = product.sum(axis=(0, *range(2, product.ndim)))
                    dweight.reshape(len(weight), -1)[:, number] += summed

    def _joins(self) -> Iterator[tuple[int, Any, Any]]:
        """For each kernel position: its number, and the outputs and inputs that it joins."""
        for number, _, outputs, inputs in self.window.positions(self.spatial, self.output):
            yield number, (..., *outputs), (..., *inputs)

    def _taps(self, weight: Array) -> Array:
        """The filters as (kernel positions, C, 1, ...): one number per channel for each position."""
        channels, axes = weight.shape[0], weight.ndim - 2
        return weight.reshape(channels, -1).T.reshape(-1, channels, *[1] * axes)

    def _parts(self, y: Array) -> list[slice]:
        """Some images at a time."""
        images = max(1, CELLS_AT_ONCE // max(1, count(y.shape[1:])))
        return [slice(start, start + images) for start in range(0, y.shape[0], images)]


@register
class DepthwiseConvolution(Convolution):
    """A Convolution meant for `group` = channels = `num_output`; in any other case it is a plain Convolution.

    x (N, C, H, W) to (N, C, P, Q); parameters: filters (C, 1, R, S), bias (C).
    """

    type = "DepthwiseConvolution"

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        tops = super().infer(bottoms)
        shape, channels = bottoms[0], self.options.group
        self.filters = None
        if self.axis == 1 and shape[1] == channels == self.options.num_output:
            self.filters = ChannelFilters(self.window, shape[2:], tops[0][2:])
        return tops

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        if self.filters is None:
            super().forward(xp, b)
        else:
            filter_bottoms(xp, self.filters, b)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        if self.filters is None:
            super().backward(xp, b)
        else:
            filter_bottoms_backward(xp, self.filters, b)


@register
class ConvolutionDepthwise(SlidingFilters):
    """Every channel of (N, C, H, W) filtered by itself; `num_output` and `group` are ignored.

    `stride` and `pad` must be given. Parameters: filters (C, 1, R, S), bias (C).
    """

    type = "ConvolutionDepthwise"

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape = bottoms[0]
        if len(shape) != 4:
            raise self.error(
                f"{self.type} needs (N, C, H, W)", blob=self.spec.bottom[0], expected="4 axes", found=shape
            )
        self.check_equal_shapes(bottoms)
        for name, default in (("stride", 1), ("pad", 0)):
            if not getattr(self.options, name) and not self.options.HasField(f"{name}_h"):
                raise self.error(
                    f"{name} is missing: a {self.type} layer has no default for it",
                    remedy=f"add `{name}: {default}`",
                )
        self.read_window(shape)
        output = self.output_of(shape[2:])
        self.params = [ParamBlob((shape[1], 1, *self.window.kernel), self.option("weight_filler"))]
        if self.options.bias_term:
            self.params.append(ParamBlob((shape[1],), self.option("bias_filler")))
        self.filters = ChannelFilters(self.window, shape[2:], output)
        return [(*shape[:2], *output)] * len(bottoms)

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        filter_bottoms(xp, self.filters, b)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        filter_bottoms_backward(xp, self.filters, b)


def filter_bottoms(xp: ModuleType, filters: ChannelFilters, b: Buffers) -> None:
    """Every bottom through the same filters."""
    bias = b.params[1] if len(b.params) > 1 else None
    for x, y in zip(b.bottoms, b.tops, strict=True):
        filters.forward(xp, x, b.params[0], y, bias)


def filter_bottoms_backward(xp: ModuleType, filters: ChannelFilters, b: Buffers) -> None:
    """The gradients of all bottoms, the filters and the bias."""
    dbias = b.param_grads[1] if len(b.params) > 1 else None
    for x, dy, dx in zip(b.bottoms, b.top_grads, b.bottom_grads, strict=True):
        if dy is None:
            if dx is not None:
                dx[...] = 0
            continue
        if dbias is not None:
            dbias += dy.sum(axis=(0, *range(2, dy.ndim)))
        filters.backward(xp, x, dy, b.params[0], dx, b.param_grads[0])
