"""Reduction: the last axes of a blob summed up to one number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Final

from netc.layer.base import Array, Buffers, Layer, Shape, count
from netc.layer.registry import register
from netc.proto import netc_pb2 as pb


def squared_norms(xp: ModuleType, rows: Array) -> Array:
    """The sum of squares of each row of a matrix, as inner products."""
    return xp.matmul(rows[:, None, :], rows[:, :, None])[:, 0, 0]


@dataclass(frozen=True)
class Operation:
    """What becomes of the rows (M, D): M numbers, and their slopes in each cell (None: 1 everywhere)."""

    reduce: Callable[[ModuleType, Array], Array]
    slopes: Callable[[ModuleType, Array], Array] | None = None
    mean: bool = False


OPERATIONS: Final = {
    pb.ReductionParameter.SUM: Operation(lambda xp, rows: rows.sum(axis=1)),
    pb.ReductionParameter.ASUM: Operation(
        lambda xp, rows: xp.abs(rows).sum(axis=1), lambda xp, rows: xp.sign(rows)
    ),
    pb.ReductionParameter.SUMSQ: Operation(squared_norms, lambda xp, rows: 2 * rows),
    pb.ReductionParameter.MEAN: Operation(lambda xp, rows: rows.sum(axis=1), mean=True),
}


@register
class Reduction(Layer):
    """`coeff` times the sum (SUM), the sum of magnitudes (ASUM), the sum of squares (SUMSQ) or the mean
    (MEAN) over `axis` (0 unless stated) and all axes behind it.

    Shapes: (N, C, H, W) to (N, C) for axis 2; to a scalar for axis 0. With a `loss_weight` it is a loss of
    one's own making, or a regulariser on activations. At 0 the slope of a magnitude is 0.
    """

    type = "Reduction"
    options_field = "reduction_param"
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape = bottoms[0]
        axis = self.canonical_axis(self.options.axis, len(shape)) if shape else 0
        self.rows = (count(shape[:axis]), count(shape[axis:]))
        self.operation = OPERATIONS[self.options.operation]
        self.backward_bottoms = () if self.operation.slopes is None else (0,)
        shared = self.rows[1] if self.operation.mean else 1
        self.factor = self.dtype.type(self.options.coeff / max(1, shared))
        return [shape[:axis]]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        sums = self.operation.reduce(xp, b.bottoms[0].reshape(self.rows))
        xp.multiply(sums, self.factor, out=b.tops[0].reshape(self.rows[0]))

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dy: Array = b.top_grads[0]
        dx: Array = b.bottom_grads[0]
        dy, dx = (dy * self.factor).reshape(self.rows[0], 1), dx.reshape(self.rows)
        if self.operation.slopes is None:
            dx[...] = dy
        else:
            xp.multiply(self.operation.slopes(xp, b.bottoms[0].reshape(self.rows)), dy, out=dx)
