"""Axpy: a channel-wise product and a sum in one. (Hu et al., "Squeeze-and-excitation networks", 2018)"""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Arity, Buffers, Layer, Shape, count
from netc.layer.registry import register


@register
class Axpy(Layer):
    """f = a x + y, with one number a for each channel of each image.

    Bottoms: a (N, C) or (N, C, 1, 1), x and y (N, C, H, W).
    """

    type = "Axpy"
    bottoms = Arity(3)
    backward_bottoms = (0, 1)
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        scale, x, y = bottoms
        if scale[:2] != x[:2] or len(x) < 2 or count(scale[2:]) != 1:
            raise self.error(
                "bottom 0 of Axpy holds one number for each channel of each image",
                blob=self.spec.bottom[0],
                expected=f"{x[:2]} or {(*x[:2], 1, 1)}, for {self.spec.bottom[1]!r} {list(x)}",
                found=scale,
            )
        if y != x:
            raise self.error(
                "bottoms 1 and 2 of Axpy must have the same shape",
                blob=self.spec.bottom[2],
                expected=x,
                found=y,
            )
        self.channels = (*x[:2], count(x[2:]))
        return [x]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        scale, x, y = b.bottoms
        out = b.tops[0].reshape(self.channels)
        xp.multiply(x.reshape(self.channels), scale.reshape(*self.channels[:2], 1), out=out)
        b.tops[0] += y

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        scale, x, _ = b.bottoms
        dscale, dx, dy = b.bottom_grads
        df = b.top_grads[0].reshape(self.channels)  # type: ignore[union-attr]
        if dscale is not None:
            product = xp.einsum("ncs,ncs->nc", df, x.reshape(self.channels))
            dscale.reshape(self.channels[:2])[...] = product
        if dx is not None:
            xp.multiply(df, scale.reshape(*self.channels[:2], 1), out=dx.reshape(self.channels))
        if dy is not None:
            dy.reshape(self.channels)[...] = df
