"""Dropout and SeLUDropout: in training, a random part of the values is left out."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from netc.layer.base import Array, Buffers, Layer, Scratch, Shape
from netc.layer.random import stream
from netc.layer.registry import register
from netc.proto import netc_pb2 as pb


@register
class Dropout(Layer):
    """TRAIN: y = mask x / (1 - dropout_ratio), mask 0 with probability dropout_ratio and else 1. TEST: y = x.

    With `scale_train: false` the factor is TEST's: y = mask x in TRAIN, (1 - dropout_ratio) x in TEST. With
    `sample_weights_test` TEST draws as TRAIN does. (Srivastava et al., "Dropout: a simple way to prevent
    neural networks from overfitting", 2014; Kendall et al., "Bayesian SegNet", 2015)
    """

    type = "Dropout"
    options_field = "dropout_param"
    in_place = True
    backward_bottoms = ()
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        ratio = self.options.dropout_ratio
        if not 0 <= ratio < 1:
            raise self.error(
                "dropout_ratio is the part that is left out",
                "dropout_ratio",
                expected="0 <= ratio < 1",
                found=ratio,
            )
        self.drops = self.phase == pb.TRAIN or self.options.sample_weights_test
        kept = 1 - ratio
        if self.options.scale_train:
            self.factor = 1 / kept if self.drops else 1
        else:
            self.factor = 1 if self.drops else kept
        self.decides_on_host = self.drops  # which draw it is
        if self.drops:
            self.saved = {"mask": Scratch(bottoms[0], np.bool_)}
            self.states = {"draw": Scratch((1,), np.int64)}
        return [bottoms[0]]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        if self.drops:
            draw_mask(xp, self, b, self.options.dropout_ratio)
        self._keep(xp, b.bottoms[0], b)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        if b.bottom_grads[0] is not None:
            self._keep(xp, b.top_grads[0], b, backward=True)

    def _keep(self, xp: ModuleType, source: Array, b: Buffers, *, backward: bool = False) -> None:
        """What is kept of x (or dy), times the factor, in the net's own precision."""
        target = b.bottom_grads[0] if backward else b.tops[0]
        if self.drops:
            xp.multiply(source, b.saved["mask"], out=target)
        else:
            _copy(source, target)
        if self.factor != 1:
            target *= self.dtype.type(self.factor)  # type: ignore[operator]


@register
class SeLUDropout(Layer):
    """TRAIN: y = a (x or alpha) + b, alpha in place of x with probability dropout_ratio. TEST: y = x.

    With q = 1 - dropout_ratio, a = (q (1 + alpha^2 (1 - q)))^(-1/2) and b = -a (1 - q) alpha keep mean 0 and
    variance 1. (Klambauer et al., "Self-normalizing neural networks", 2017)
    """

    type = "SeLUDropout"
    options_field = "selu_dropout_param"
    in_place = True
    backward_bottoms = ()
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        ratio, alpha = self.options.dropout_ratio, self.options.alpha
        if not 0 < ratio < 1:
            raise self.error(
                "dropout_ratio is the part that is left out",
                "dropout_ratio",
                expected="0 < ratio < 1",
                found=ratio,
            )
        self.factor = ((1 - ratio) * (1 + alpha**2 * ratio)) ** -0.5
        self.shift = -self.factor * ratio * alpha
        self.decides_on_host = self.phase == pb.TRAIN  # which draw it is
        if self.phase == pb.TRAIN:
            self.saved = {"mask": Scratch(bottoms[0], np.bool_)}
            self.states = {"draw": Scratch((1,), np.int64)}
        return [bottoms[0]]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, y, kind = b.bottoms[0], b.tops[0], self.dtype.type
        if self.phase != pb.TRAIN:
            _copy(x, y)
            return
        draw_mask(xp, self, b, self.options.dropout_ratio)
        y[...] = xp.where(b.saved["mask"], x, kind(self.options.alpha))
        y *= kind(self.factor)
        y += kind(self.shift)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dy, dx = b.top_grads[0], b.bottom_grads[0]
        if dx is None:
            return
        if self.phase != pb.TRAIN:
            _copy(dy, dx)
            return
        xp.multiply(dy, b.saved["mask"], out=dx)
        dx *= self.dtype.type(self.factor)


@register
class SeLuDropout(SeLUDropout):
    """SeLUDropout under the other spelling of its name."""

    type = "SeLuDropout"


def draw_mask(xp: ModuleType, layer: Layer, b: Buffers, ratio: float) -> None:
    """Fills `saved["mask"]`: false with probability `ratio`, a new draw each time."""
    mask, draw = b.saved["mask"], b.states["draw"]
    chance = stream(xp, layer.seed, layer.name, int(draw[0])).random(mask.shape, dtype=xp.float32)
    draw += 1
    xp.greater_equal(chance, ratio, out=mask)


def _copy(source: object, target: object) -> None:
    if source is not target:
        target[...] = source  # type: ignore[index]
