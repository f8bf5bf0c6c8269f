"""Matrix products on row-major arrays, which may add to what is there."""

from __future__ import annotations

from typing import Final

import numpy as np

from netc.backends.cpu.loops.native_job import PRODUCT
from netc.backends.cpu.native_calls import Call, Native, address_of
from netc.backends.cpu.onednn.engine import Engine

COLLIDING: Final = 128  # rows of a multiple of so many floats compete for the same places in the caches
APART: Final = 16  # the floats that keep them from it: a cache line


def row_of(columns: int) -> int:
    """The floats from row to row of a matrix of so many columns that products read fast."""
    return columns if columns % COLLIDING else columns + APART


class Product(Native):
    """target = left @ right (+ target with `add`), each side a matrix or a transposed view of one, whose rows
    may lie apart; calling it computes it."""

    __slots__ = ("_arguments", "_functions", "_held", "_multiply")

    def __init__(
        self, engine: Engine, left: np.ndarray, right: np.ndarray, target: np.ndarray, *, add: bool = False
    ) -> None:
        self._held = (left, right, target)
        self._functions = engine.functions
        self._multiply = engine.functions["sgemm"]
        (rows, inner), columns = left.shape, right.shape[1]
        assert right.shape[0] == inner
        assert target.shape == (rows, columns)
        assert target.flags.c_contiguous
        (flag, *operand), (other_flag, *other) = _side(left), _side(right)
        sizes = (rows, columns, inner)
        beta = 1.0 if add else 0.0
        place = (target.ctypes.data, columns)
        self._arguments = (flag, other_flag, *sizes, 1.0, *operand, *other, beta, *place)

    def __call__(self) -> None:
        if status := self._multiply(*self._arguments):
            self.fail(0, status)

    @property
    def calls(self) -> list[Call]:
        flag, other_flag, rows, columns, inner, _, *operands, beta, place, step = self._arguments
        sides = (ord(flag), ord(other_flag), rows, columns, inner, *operands)
        return [(PRODUCT, address_of(self._multiply), *sides, int(beta), place, step)]

    def fail(self, place: int, status: int) -> None:
        self._functions.check(status, "sgemm")


def _side(array: np.ndarray) -> tuple[bytes, int, int]:
    """Whether a side is a transposed view, its address, and the floats from row to row of the matrix."""
    if array.flags.c_contiguous:
        return b"N", array.ctypes.data, array.shape[1]
    if array.T.flags.c_contiguous:
        return b"T", array.ctypes.data, array.shape[0]
    transposed = array.strides[1] != array.itemsize
    across, along = array.strides if transposed else array.strides[::-1]
    assert across == array.itemsize, "the columns of a matrix lie close together"
    return b"T" if transposed else b"N", array.ctypes.data, along // array.itemsize
