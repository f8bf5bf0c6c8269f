"""Softmax along one axis."""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Array, Buffers, Layer, Shape
from netc.layer.registry import register


@register
class Softmax(Layer):
    """y_k = exp(x_k) / sum_j exp(x_j) along `axis` (1 unless stated); the maximum is taken out first."""

    type = "Softmax"
    options_field = "softmax_param"
    in_place = True
    backward_bottoms = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        self.axis = self.canonical_axis(self.options.axis, len(bottoms[0]))
        return [bottoms[0]]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        softmax(xp, b.bottoms[0], self.axis, out=b.tops[0])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        y, dy, dx = b.tops[0], b.top_grads[0], b.bottom_grads[0]
        along = (dy * y).sum(axis=self.axis, keepdims=True)
        xp.subtract(dy, along, out=dx)
        dx *= y


def softmax(xp: ModuleType, x: Array, axis: int, out: Array) -> None:
    """Writes the softmax of `x` along `axis` into `out`, which may be `x`."""
    xp.subtract(x, x.max(axis=axis, keepdims=True), out=out)
    xp.exp(out, out=out)
    out /= out.sum(axis=axis, keepdims=True)
