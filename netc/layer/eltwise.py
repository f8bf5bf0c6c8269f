"""Eltwise: product, sum or maximum of bottoms of one shape."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

import numpy as np

from netc.layer.base import ALL, Arity, Array, Buffers, Layer, Scratch, Shape
from netc.layer.registry import register
from netc.proto import netc_pb2 as pb

log = logging.getLogger(__name__)


@register
class Eltwise(Layer):
    """y = x0 * x1 * ... (PROD), coeff0 * x0 + coeff1 * x1 + ... (SUM, the default) or max(x0, x1, ...) (MAX).

    In place Caffe's numbers are kept, with what they lose: SUM and MAX clear the top before they read bottom
    0, which therefore drops out; gradients are written bottom by bottom, the first of them over dy.
    """

    type = "Eltwise"
    options_field = "eltwise_param"
    bottoms = Arity(2, None)
    in_place = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.operation = self.options.operation
        product = self.operation == pb.EltwiseParameter.PROD
        divides = product and not self.options.stable_prod_grad
        self.backward_bottoms = ALL if product else ()
        self.backward_tops = ALL if divides else ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        for i, shape in enumerate(bottoms):
            if shape != bottoms[0]:
                raise self.error(
                    "the bottoms of an Eltwise layer must have one shape",
                    blob=self.spec.bottom[i],
                    expected=f"{list(bottoms[0])}, as {self.spec.bottom[0]!r}",
                    found=list(shape),
                )
        self._check_coefficients(len(bottoms))
        self.coefficients = list(self.options.coeff) or [1.0] * len(bottoms)
        if self.operation == pb.EltwiseParameter.MAX:
            self.saved = {"winner": Scratch(bottoms[0], np.min_scalar_type(len(bottoms)))}
        if self.runs_in_place and self.operation != pb.EltwiseParameter.PROD:
            log.warning(
                "%s: in place, as in Caffe, bottom 0 (%s) drops out; to keep it, rename the top",
                self.name,
                self.spec.bottom[0],
            )
        return [bottoms[0]]

    def _check_coefficients(self, bottoms: int) -> None:
        given = len(self.options.coeff)
        if given and self.operation == pb.EltwiseParameter.PROD:
            raise self.error(
                "coefficients are for sums only", "coeff", remedy="drop coeff, or state operation: SUM"
            )
        if given and self.operation == pb.EltwiseParameter.MAX:
            log.warning(
                "%s: layer %s: coeff has no effect on a maximum, as in Caffe",
                self.locate(self.options_field, "coeff"),
                self.name,
            )
        if given not in (0, bottoms):
            raise self.error(
                "as many coefficients as bottoms, or none, are needed", "coeff", expected=bottoms, found=given
            )

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        _FORWARD[self.operation](self, xp, b)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        _BACKWARD[self.operation](self, xp, b)

    def _multiply(self, xp: ModuleType, b: Buffers) -> None:
        y = b.tops[0]
        xp.multiply(b.bottoms[0], b.bottoms[1], out=y)
        for x in b.bottoms[2:]:
            y *= x

    def _multiply_backward(self, xp: ModuleType, b: Buffers) -> None:
        for i, dx in enumerate(b.bottom_grads):
            if dx is None:
                continue
            if self.options.stable_prod_grad:
                others = [x for j, x in enumerate(b.bottoms) if j != i]
                dx[...] = others[0]
                for x in others[1:]:
                    dx *= x
            else:
                xp.divide(b.tops[0], b.bottoms[i], out=dx)
            dx *= b.top_grads[0]

    def _add(self, xp: ModuleType, b: Buffers) -> None:
        y = b.tops[0]
        terms = list(zip(self.coefficients, b.bottoms, strict=True))
        if self.runs_in_place:
            terms = terms[1:]
        coefficient, x = terms[0]
        if coefficient == 1 and len(terms) > 1 and terms[1][0] == 1:
            xp.add(x, terms[1][1], out=y)
            terms = terms[1:]
        else:
            xp.multiply(x, x.dtype.type(coefficient), out=y)
        for coefficient, x in terms[1:]:
            y += x if coefficient == 1 else x * x.dtype.type(coefficient)

    def _add_backward(self, xp: ModuleType, b: Buffers) -> None:
        dy: Array = b.top_grads[0]
        for coefficient, dx in zip(self.coefficients, b.bottom_grads, strict=True):
            if dx is None:
                continue
            if coefficient == 1:
                dx[...] = dy
            else:
                xp.multiply(dy, dy.dtype.type(coefficient), out=dx)

    def _select(self, xp: ModuleType, b: Buffers) -> None:
        """The maximum: bottom 1 wins a tie with bottom 0, an earlier bottom every other tie."""
        y, winner = b.tops[0], b.saved["winner"]
        first, second, *rest = b.bottoms
        if self.runs_in_place:
            y[...] = second
            winner[...] = 1
        else:
            winner[...] = first <= second
            xp.maximum(first, second, out=y)
        for i, x in enumerate(rest, start=2):
            wins = x > y
            winner *= ~wins
            winner += wins * winner.dtype.type(i)
            xp.maximum(y, x, out=y)

    def _select_backward(self, xp: ModuleType, b: Buffers) -> None:
        dy, winner = b.top_grads[0], b.saved["winner"]
        for i, dx in enumerate(b.bottom_grads):
            if dx is not None:
                xp.multiply(dy, winner == i, out=dx)


_FORWARD = {
    pb.EltwiseParameter.PROD: Eltwise._multiply,
    pb.EltwiseParameter.SUM: Eltwise._add,
    pb.EltwiseParameter.MAX: Eltwise._select,
}
_BACKWARD = {
    pb.EltwiseParameter.PROD: Eltwise._multiply_backward,
    pb.EltwiseParameter.SUM: Eltwise._add_backward,
    pb.EltwiseParameter.MAX: Eltwise._select_backward,
}
