"""Normalize: vectors of one length, then a learned scale."""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Array, Buffers, Layer, ParamBlob, Scratch, Shape, count
from netc.layer.registry import register
from netc.proto import netc_pb2 as pb


@register
class Normalize(Layer):
    """y = s x / sqrt(sum x^2 + eps), the sum over an image, or with `across_spatial: false` over the channels
    of a place.

    Parameter 0: s, a scalar with `channel_shared` (the default), else (C); 1 unless `scale_filler` says
    otherwise. (Liu et al., "ParseNet", 2015)

    dx = s (dy - x (x . dy) / n^2) / n with the norm n. That is the derivative for a shared s only: one s per
    channel belongs inside x . dy, and SSD, whose numbers these are, leaves it out.
    """

    type = "Normalize"
    options_field = "norm_param"
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape = bottoms[0]
        if len(shape) < 2:
            raise self.error(
                "Normalize needs a channel axis",
                blob=self.spec.bottom[0],
                expected="at least 2 axes",
                found=shape,
            )
        if self.options.eps < 0:
            raise self.error("eps must not be negative", "eps", expected="0 or more", found=self.options.eps)
        self.cells = (*shape[:2], count(shape[2:]))
        self.summed = (1, 2) if self.options.across_spatial else (1,)
        ones = pb.FillerParameter(type="constant", value=1)
        scale = () if self.options.channel_shared else (shape[1],)
        self.params = [ParamBlob(scale, self.option("scale_filler", ones))]
        places = 1 if self.options.across_spatial else self.cells[2]
        self.saved = {"norm": Scratch((shape[0], 1, places))}
        return [shape]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, y, norm = b.bottoms[0].reshape(self.cells), b.tops[0].reshape(self.cells), b.saved["norm"]
        xp.multiply(x, x, out=y)
        norm[...] = y.sum(axis=self.summed, keepdims=True)
        norm += x.dtype.type(self.options.eps)
        xp.sqrt(norm, out=norm)
        xp.divide(x, norm, out=y)
        y *= self._spread(b.params[0])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        x, norm, dscale = b.bottoms[0].reshape(self.cells), b.saved["norm"], b.param_grads[0]
        dy = b.top_grads[0].reshape(self.cells)  # type: ignore[union-attr]
        product = x * dy
        if dscale is not None:
            dscale += (product / norm).sum(axis=None if self.options.channel_shared else (0, 2))
        if b.bottom_grads[0] is None:
            return
        dx = b.bottom_grads[0].reshape(self.cells)
        xp.multiply(x, product.sum(axis=self.summed, keepdims=True) / (norm * norm), out=dx)
        xp.subtract(dy, dx, out=dx)
        dx /= norm
        dx *= self._spread(b.params[0])

    def _spread(self, scale: Array) -> Array:
        """The scale, shaped so that it broadcasts over (N, C, places)."""
        return scale if self.options.channel_shared else scale.reshape(-1, 1)
