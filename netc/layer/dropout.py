"""Dropout: in training, a random part of the values is left out."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from netc.layer.base import Buffers, Layer, Scratch, Shape
from netc.layer.random import stream
from netc.layer.registry import register
from netc.proto import netc_pb2 as pb


@register
class Dropout(Layer):
    """TRAIN: y = mask x / (1 - dropout_ratio), mask 0 with probability dropout_ratio and else 1. TEST: y = x.

    (Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014)
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
        if self.phase == pb.TRAIN:
            self.saved = {"mask": Scratch(bottoms[0], np.bool_)}
            self.states = {"draw": Scratch((1,), np.int64)}
        return [bottoms[0]]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        if self.phase != pb.TRAIN:
            _copy(b.bottoms[0], b.tops[0])
            return
        mask, draw = b.saved["mask"], b.states["draw"]
        chance = stream(xp, self.seed, self.name, int(draw[0])).random(mask.shape, dtype=xp.float32)
        draw += 1
        xp.greater_equal(chance, self.options.dropout_ratio, out=mask)
        self._keep(xp, b.bottoms[0], mask, b.tops[0])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dy, dx = b.top_grads[0], b.bottom_grads[0]
        if dx is None:
            return
        if self.phase == pb.TRAIN:
            self._keep(xp, dy, b.saved["mask"], dx)
        else:
            _copy(dy, dx)

    def _keep(self, xp: ModuleType, source: object, mask: object, target: object) -> None:
        """target = mask * source / (1 - ratio), the scale in the net's own precision."""
        xp.multiply(source, mask, out=target)
        target *= self.dtype.type(1 / (1 - self.options.dropout_ratio))  # type: ignore[operator]


def _copy(source: object, target: object) -> None:
    if source is not target:
        target[...] = source  # type: ignore[index]
