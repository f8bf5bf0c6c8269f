"""Convolution as matrix products, over any number of spatial axes, groups, strides and dilations.

The letters: N images, G groups, C input channels and K filters of one group, T kernel positions of all
spatial axes but the first, R kernel positions and P outputs of the first, M = (images at a time) x (outputs
of all other axes).

The input is unrolled into rows (G, H, C T, M): along the first spatial axis H nothing is repeated, since the
R rows under one output row lie one after the other and are one matrix (R C T, M) as they stand. That copies T
times the input where the usual columns (im2col, Chellapilla et al., 2006) copy R T times, and the products
are those of the usual columns:

    forward     y[p]     = W (K, R C T) @ rows[p ... p + R] (R C T, M)
    weights     dW      += dy[p] (K, M) @ rows[p ... p + R] (R C T, M) transposed
    input       drows[p ... p + R] += W transposed @ dy[p], then each row is added back to where it came from

Where M would be too narrow for a good product (few or small images), a first spatial axis of one cell is put
before the others, and the same code computes with the usual columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from netc.layer.base import Array, Shape, count
from netc.layer.window import Window

CHUNK_BYTES: Final = 2 << 20  # rows of a chunk of images: what stays in a core's share of the caches
NARROW: Final = 128  # columns below which a matrix product wastes time
POINTWISE: Final = 64  # cells of an image from which 1x1 kernels multiply image by image


@dataclass(frozen=True)
class Lowering:
    """The cross-correlation of (N, G C, *spatial) with filters (G K, C, *kernel) to (N, G K, *output), and
    its gradients.

    A deconvolution is `backward` run forward.
    """

    images: int
    groups: int
    channels: int  # of one group
    filters: int  # of one group
    window: Window
    spatial: Shape
    output: Shape
    chunk: int  # images at a time
    pointwise: bool  # 1x1 kernels, one step at a time: an image is its own columns

    @classmethod
    def of(
        cls,
        images: int,
        groups: int,
        channels: int,
        filters: int,
        window: Window,
        spatial: Shape,
        output: Shape,
    ) -> Lowering:
        """The lowering for C channels and K filters in all; picks the form that is fast for these shapes."""
        c, k = channels // groups, filters // groups
        pointwise = window == Window(*((n,) * len(spatial) for n in (1, 1, 0, 1)))
        pointwise = pointwise and count(spatial) >= POINTWISE
        if spatial:
            chunk = _chunk(images, groups * c, window, output)
            if chunk * count(output[1:]) >= NARROW and not pointwise:
                return cls(images, groups, c, k, window, spatial, output, chunk, False)
        window = Window((1, *window.kernel), (1, *window.stride), (0, *window.pad), (1, *window.dilation))
        chunk = _chunk(images, groups * c, window, (1, *output))
        return cls(images, groups, c, k, window, (1, *spatial), (1, *output), chunk, pointwise)

    def forward(self, xp: ModuleType, x: Array, weight: Array, y: Array, bias: Array | None = None) -> None:
        """y = the cross-correlation of x with the filters, plus one bias per filter."""
        g, k = self.groups, self.filters
        x = x.reshape(self.images, g, self.channels, *self.spatial)
        y = y.reshape(self.images, g, k, *self.output)
        if bias is not None:
            bias = bias.reshape(g, k, *[1] * len(self.output))
        if self.pointwise:
            xp.matmul(weight.reshape(g, k, self.channels), _flat(x), out=_flat(y))
            if bias is not None:
                y += bias
            return
        w = self._matrix(xp, weight)[:, None]
        rows = None
        for start in range(0, self.images, self.chunk):
            part = slice(start, start + self.chunk)
            rows = self._unroll(xp, x[part], rows)
            product = xp.matmul(w, self._patches(xp, rows))
            product = product.reshape(g, self.output[0], k, -1, *self.output[1:])
            product = xp.moveaxis(product, 3, 0).swapaxes(2, 3)
            if bias is None:
                y[part] = product
            else:
                xp.add(product, bias, out=y[part])

    def backward(
        self,
        xp: ModuleType,
        x: Array | None,
        dy: Array,
        weight: Array,
        dx: Array | None = None,
        dweight: Array | None = None,
    ) -> None:
        """Writes dx and adds to dweight, each where it is wanted; x is read for dweight only."""
        g, k, c = self.groups, self.filters, self.channels
        dy = dy.reshape(self.images, g, k, *self.output)
        if dx is not None:
            dx = dx.reshape(self.images, g, c, *self.spatial)
            if self.pointwise:
                xp.matmul(weight.reshape(g, k, c).swapaxes(1, 2), _flat(dy), out=_flat(dx))
                dx = None
            else:
                dx[...] = 0
        if x is not None:
            x = x.reshape(self.images, g, c, *self.spatial)
        if dx is None and dweight is None:
            return
        w = self._matrix(xp, weight)
        dw = None if dweight is None else xp.zeros_like(w)
        rows = None
        for start in range(0, self.images, self.chunk):
            part = slice(start, start + self.chunk)
            dy_rows = xp.ascontiguousarray(xp.moveaxis(dy[part], (3, 2, 0), (1, 2, 3)))
            dy_rows = dy_rows.reshape(g, self.output[0], k, -1)
            if dw is not None:
                rows = self._unroll(xp, x[part], rows)  # type: ignore[index]
                patches = self._patches(xp, rows)
                for p in range(self.output[0]):
                    dw += xp.matmul(dy_rows[:, p], patches[:, p].swapaxes(1, 2))
            if dx is not None:
                self._roll_back(xp, w, dy_rows, dx[part])
        if dweight is not None and dw is not None:
            kernel = self.window.kernel
            dw = xp.moveaxis(dw.reshape(g, k, kernel[0], c, *kernel[1:]), 2, 3)
            dweight += dw.reshape(dweight.shape)

    def _matrix(self, xp: ModuleType, weight: Array) -> Array:
        """The filters as (G, K, R C T)."""
        kernel = self.window.kernel
        weight = weight.reshape(self.groups, self.filters, self.channels, *kernel)
        return xp.moveaxis(weight, 3, 2).reshape(self.groups, self.filters, -1)

    @property
    def _rows(self) -> int:
        """The rows of the first spatial axis that the outputs read, padding included."""
        return (self.output[0] - 1) * self.window.stride[0] + self.window.extent[0]

    def _joins(self) -> Iterator[tuple[Any, Any]]:
        """For each kernel position of a row: the indices of its cells in the rows and in x seen `_by_row`."""
        window, pad = self.window, self.window.pad[0]
        height = max(0, min(self.spatial[0], self._rows - pad))
        tail = Window(window.kernel[1:], window.stride[1:], window.pad[1:], window.dilation[1:])
        for _, index, outputs, inputs in tail.positions(self.spatial[1:], self.output[1:]):
            row = (slice(None), slice(pad, pad + height), slice(None), *index, slice(None), *outputs)
            yield row, (slice(None), slice(height), slice(None), slice(None), *inputs)

    def _by_row(self, xp: ModuleType, x: Array) -> Array:
        """A view of (images, G, C, H, *others) as (G, H, C, images, *others)."""
        return xp.moveaxis(x, (1, 3, 2, 0), (0, 1, 2, 3))

    def _row_shape(self, images: int) -> Shape:
        return (self.groups, self._rows, self.channels, *self.window.kernel[1:], images, *self.output[1:])

    def _unroll(self, xp: ModuleType, x: Array, rows: Array | None) -> Array:
        """The rows of some images, written over the last chunk's where they are as many."""
        if rows is None or rows.shape[2 + len(self.window.kernel)] != len(x):
            rows = xp.zeros(self._row_shape(len(x)), x.dtype)  # the padding stays zero from chunk to chunk
        x = self._by_row(xp, x)
        for row, cells in self._joins():
            rows[row] = x[cells]
        return rows

    def _patches(self, xp: ModuleType, rows: Array) -> Array:
        """The matrices of all output rows: (G, P, R C T, M), a view unless the first axis is dilated."""
        kernel, stride, dilation = self.window.kernel[0], self.window.stride[0], self.window.dilation[0]
        outputs = self.output[0]
        rows = rows.reshape(self.groups, self._rows, self.channels * count(self.window.kernel[1:]), -1)
        if kernel > 1 and dilation > 1:
            first = xp.arange(outputs)[:, None] * stride
            gathered = rows[:, first + xp.arange(kernel) * dilation]
            return gathered.reshape(self.groups, outputs, -1, rows.shape[-1])
        group, row, line, cell = rows.strides
        shape = (self.groups, outputs, kernel * rows.shape[2], rows.shape[3])
        return xp.lib.stride_tricks.as_strided(rows, shape, (group, row * stride, line, cell))

    def _roll_back(self, xp: ModuleType, w: Array, dy_rows: Array, dx: Array) -> None:
        """Adds W transposed @ dy to the cells that the products came from."""
        kernel, stride, dilation = self.window.kernel[0], self.window.stride[0], self.window.dilation[0]
        turned, shape = w.swapaxes(1, 2), self._row_shape(len(dx))
        if self._rows == 1:
            rows = xp.matmul(turned, dy_rows[:, 0]).reshape(shape)
        else:
            rows = xp.zeros(shape, dx.dtype)
            flat = rows.reshape(self.groups, self._rows, -1)
            for p in range(self.output[0]):
                product = xp.matmul(turned, dy_rows[:, p]).reshape(self.groups, kernel, -1)
                flat[:, p * stride : p * stride + kernel * dilation : dilation] += product
        cells_of = self._by_row(xp, dx)
        for row, cells in self._joins():
            cells_of[cells] += rows[row]


def _flat(x: Array) -> Array:
    """(N, G, channels, *cells) with the cells of an image in one axis."""
    return x.reshape(*x.shape[:3], count(x.shape[3:]))


def _chunk(images: int, channels: int, window: Window, output: Shape) -> int:
    """How many images to unroll at a time: equal chunks of at most CHUNK_BYTES, of one image at least."""
    rows = (output[0] - 1) * window.stride[0] + window.extent[0]
    bytes_per_image = 4 * rows * channels * count(window.kernel[1:]) * count(output[1:])
    most = max(1, CHUNK_BYTES // max(1, bytes_per_image))
    chunks = max(1, -(-images // most))
    return max(1, -(-images // chunks))
