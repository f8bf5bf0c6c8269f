"""Im2col: the windows of a convolution laid out as columns."""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Arity, Array, Buffers, Shape, count
from netc.layer.conv import SlidingFilters
from netc.layer.registry import register


@register
class Im2col(SlidingFilters):
    """y[n, (c R + r) S + s, p, q] = x[n, c, p stride + r dilation - pad, ...]: what each output of a
    convolution reads, as a column.

    (N, C, H, W) to (N, C R S, P, Q), with a convolution's P and Q; cells of the padding are 0. Any number of
    spatial axes behind `axis`. (Chellapilla et al., "High performance convolutional neural networks for
    document processing", 2006)
    """

    type = "Im2col"
    bottoms = Arity(1)
    tops = Arity(1)
    backward_bottoms = ()
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape = bottoms[0]
        self.read_window(shape)
        self.spatial = shape[self.axis + 1 :]
        self.output = self.output_of(self.spatial)
        self.planes = count(shape[: self.axis + 1])
        return [(*shape[: self.axis], shape[self.axis] * count(self.window.kernel), *self.output)]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, columns = self._planes_and_columns(b.bottoms[0], b.tops[0])
        columns[...] = 0
        for number, _, outputs, inputs in self.window.positions(self.spatial, self.output):
            columns[(slice(None), number, *outputs)] = x[(slice(None), *inputs)]

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dx, columns = self._planes_and_columns(b.bottom_grads[0], b.top_grads[0])
        dx[...] = 0
        for number, _, outputs, inputs in self.window.positions(self.spatial, self.output):
            dx[(slice(None), *inputs)] += columns[(slice(None), number, *outputs)]

    def _planes_and_columns(self, x: Array, y: Array) -> tuple[Array, Array]:
        """x as (N C, H, W), y as (N C, R S, P, Q)."""
        columns = y.reshape(self.planes, count(self.window.kernel), *self.output)
        return x.reshape(self.planes, *self.spatial), columns
