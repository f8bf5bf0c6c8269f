"""Interp: images resized bilinearly, their corners kept in place."""

from __future__ import annotations

import logging
from types import ModuleType

import numpy as np

from netc.layer.base import Array, Buffers, Layer, Shape
from netc.layer.registry import register
from netc.layer.size import check_size

log = logging.getLogger(__name__)


@register
class Interp(Layer):
    """(N, C, H, W) to (N, C, P, Q) by bilinear interpolation with aligned corners: output p lies at
    p (H - 1) / (P - 1).

    The size: `shrink_factor` s gives (H - 1) / s + 1, then `zoom_factor` z gives (H - 1) z + 1; without
    either, `height` and `width` are it. `pad_beg` and `pad_end`, which must not be positive, cut rows and
    columns off first. (Chen et al., "DeepLab", 2015; Zhao et al., "PSPNet", 2017)
    """

    type = "Interp"
    options_field = "interp_param"
    backward_bottoms = ()
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape = bottoms[0]
        if len(shape) != 4:
            raise self.error(
                "Interp needs (N, C, H, W)", blob=self.spec.bottom[0], expected="4 axes", found=shape
            )
        for name in ("pad_beg", "pad_end"):
            if getattr(self.options, name) > 0:
                raise self.error(
                    f"{name} can only cut off",
                    name,
                    expected="0 or less",
                    found=getattr(self.options, name),
                    remedy="pad in the layer before",
                )
        begin, cut = -self.options.pad_beg, -self.options.pad_beg - self.options.pad_end
        height, width = shape[2] - cut, shape[3] - cut
        if min(height, width) < 1:
            raise self.error(
                "pad_beg and pad_end cut off the whole image",
                "pad_beg" if self.options.HasField("pad_beg") else "pad_end",
                expected=f"less than {min(shape[2:])} rows and columns in all",
                found=cut,
            )
        self.inside = (..., slice(begin, begin + height), slice(begin, begin + width))
        output = self._output((height, width))
        check_size(self, f"blob {self.spec.top[0]!r}", (*shape[:2], *output))
        self.resized = ((height, output[0]), (width, output[1]))
        return [(*shape[:2], *output)]

    def _matrices(self, xp: ModuleType) -> tuple[Array, Array]:
        """What interpolates along rows and along columns; made when the layer first runs."""
        rows, columns = self.resized
        return (
            self.constant(xp, "rows", lambda: _interpolation(*rows, self.dtype)),
            self.constant(xp, "columns", lambda: _interpolation(*columns, self.dtype)),
        )

    def _output(self, size: Shape) -> Shape:
        factors = [name for name in ("shrink_factor", "zoom_factor") if self.options.HasField(name)]
        sizes = [name for name in ("height", "width") if self.options.HasField(name)]
        for name in factors or ("height", "width"):
            if getattr(self.options, name) < 1:
                raise self.error(
                    f"{name} must be at least 1"
                    if factors or name in sizes
                    else "the size of the output is not given",
                    *([name] if factors or name in sizes else []),
                    remedy="give height and width, zoom_factor or shrink_factor",
                )
        if not factors:
            return (self.options.height, self.options.width)
        if sizes:
            log.warning(
                "%s: layer %s: %s is ignored, because %s is given",
                self.locate(self.options_field, sizes[0]),
                self.name,
                " and ".join(sizes),
                " and ".join(factors),
            )
        shrunk = tuple((n - 1) // self.options.shrink_factor + 1 for n in size)
        return tuple((n - 1) * self.options.zoom_factor + 1 for n in shrunk)

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        rows, columns = self._matrices(xp)
        across = xp.matmul(b.bottoms[0][self.inside], columns.T)
        xp.matmul(rows, across, out=b.tops[0])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dx = b.bottom_grads[0]
        if dx is None:
            return
        dx[...] = 0
        rows, columns = self._matrices(xp)
        dx[self.inside] = xp.matmul(rows.T, xp.matmul(b.top_grads[0], columns))


def _interpolation(size: int, output: int, dtype: np.dtype) -> Array:
    """The matrix (output, size) that interpolates along one axis.

    Places are computed in single precision whatever the net's, as the forks do.
    """
    step = np.float32(size - 1) / np.float32(output - 1) if output > 1 else np.float32(0)
    place = step * np.arange(output, dtype=np.float32)
    first = place.astype(np.int64)
    second = np.minimum(first + 1, size - 1)
    share = place - first.astype(np.float32)
    matrix = np.zeros((output, size), np.float32)
    matrix[np.arange(output), first] = 1 - share
    matrix[np.arange(output), second] += share
    return matrix.astype(dtype)
