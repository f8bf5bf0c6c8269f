"""Filter lets some items of a batch through, so that its tops have as many rows as a selector has ones."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from netc.layer.base import Arity, Array, Buffers, Layer, Scratch, Shape, count
from netc.layer.registry import register


@register
class Filter(Layer):
    """Top i holds the rows n of bottom i where selector[n] is not 0, in their order; perhaps none.

    Bottoms: blobs (N, ...) and, last, the selector, N values in a blob (N), (N, 1) and so on. A row that was
    let through gets its top's gradient, the others get zeros; the selector gets none. Before the first
    forward the tops are as large as the bottoms.
    """

    type = "Filter"
    bottoms = Arity(2, None)
    tops = Arity(1, None)
    shapes_by_value = True
    backward_bottoms = ()
    backward_tops = ()
    decides_on_host = True

    def gives_gradient(self, bottom: int) -> bool:
        return bottom != len(self.spec.bottom) - 1

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        *blobs, selector = bottoms
        if len(self.spec.top) != len(blobs):
            raise self.error(
                "a top is needed for every bottom but the last, which is the selector",
                "top",
                expected=len(blobs),
                found=len(self.spec.top),
            )
        if not selector or selector[0] != count(selector):
            raise self.error(
                "the selector needs one value for each item",
                blob=self.spec.bottom[-1],
                expected="N, or N x 1 x ...",
                found=list(selector),
            )
        for name, shape in zip(self.spec.bottom, blobs, strict=False):
            if not shape or shape[0] != selector[0]:
                raise self.error(
                    "a bottom and the selector differ in the number of items",
                    blob=name,
                    expected=f"{selector[0]} x ...",
                    found=list(shape),
                )
        self.saved = {"selected": Scratch((selector[0],), np.bool_)}
        return blobs

    def real_shapes(self, xp: ModuleType, b: Buffers) -> list[Shape]:
        rows = int(xp.count_nonzero(b.bottoms[-1]))
        return [(rows, *shape[1:]) for shape in self.bottom_shapes[:-1]]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        selected: Array = b.saved["selected"]
        xp.not_equal(b.bottoms[-1].reshape(-1), 0, out=selected)
        for x, y in zip(b.bottoms[:-1], b.tops, strict=True):
            y[...] = x[selected]

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        selected = b.saved["selected"]
        for dy, dx in zip(b.top_grads, b.bottom_grads[:-1], strict=True):
            if dx is not None:
                dx[...] = 0
                if dy is not None:
                    dx[selected] = dy
