"""Split gives one blob to several layers and adds up their gradients; Silence takes unwanted blobs."""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Arity, Array, Buffers, Layer, Shape
from netc.layer.registry import register


@register
class Split(Layer):
    """Every top is the bottom itself; dx is the sum of the tops' gradients."""

    type = "Split"
    tops = Arity(1, None)
    shares_data = True
    backward_bottoms = ()
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        return [bottoms[0]] * len(self.spec.top)

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        """Nothing: the tops are the bottom's memory."""

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dx: Array = b.bottom_grads[0]
        given = [dy for dy in b.top_grads if dy is not None]
        if len(given) < 2:
            dx[...] = given[0] if given else 0
            return
        xp.add(given[0], given[1], out=dx)
        for dy in given[2:]:
            dx += dy


@register
class Silence(Layer):
    """Takes bottoms and makes nothing, so that they are no outputs of the net; their gradients are 0."""

    type = "Silence"
    bottoms = Arity(1, None)
    tops = Arity(0)
    backward_bottoms = ()
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        return []

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        """Nothing."""

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        for dx in b.bottom_grads:
            if dx is not None:
                dx[...] = 0
