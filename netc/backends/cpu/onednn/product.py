"""Matrix products on row-major arrays, which may add to what is there."""

from __future__ import annotations

import numpy as np

from netc.backends.cpu.onednn.engine import Engine


class Product:
    """target = left @ right (+ target with `add`), each side a matrix or a transposed view of one; calling it
    computes it."""

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
        sides = [(array.flags.c_contiguous, array) for array in (left, right)]
        flags = [b"N" if plain else b"T" for plain, _ in sides]
        operands = [
            (array.ctypes.data, array.shape[1] if plain else array.shape[0]) for plain, array in sides
        ]
        assert all(plain or array.T.flags.c_contiguous for plain, array in sides)
        sizes = (rows, columns, inner)
        beta = 1.0 if add else 0.0
        place = (target.ctypes.data, columns)
        self._arguments = (*flags, *sizes, 1.0, *operands[0], *operands[1], beta, *place)

    def __call__(self) -> None:
        if status := self._multiply(*self._arguments):
            self._functions.check(status, "sgemm")
