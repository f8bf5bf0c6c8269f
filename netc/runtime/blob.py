"""A blob as its user sees it: live views of values and gradients that stay right when the net is reshaped."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from netc.errors import NetcError
from netc.layer import Array, Shape


class Blob:
    """`data` and `diff` are views of the net's own memory: writing into them is writing into the net."""

    def __init__(
        self,
        data: Callable[[], Array],
        diff: Callable[[], Array | None],
        reshape: Callable[[Shape], None] | None = None,
    ) -> None:
        self._data = data
        self._diff = diff
        self._reshape = reshape
        self._unused_diff: Array | None = None

    @property
    def data(self) -> Array:
        """The values."""
        return self._data()

    @property
    def diff(self) -> Array:
        """The gradient; zeros of its own where the net computes none."""
        diff = self._diff()
        if diff is not None:
            return diff
        data = self.data
        if self._unused_diff is None or self._unused_diff.shape != data.shape:
            self._unused_diff = np.zeros_like(data)
        return self._unused_diff

    @property
    def shape(self) -> Shape:
        return tuple(self.data.shape)

    @property
    def count(self) -> int:
        return int(self.data.size)

    @property
    def num(self) -> int:
        return self._legacy(0)

    @property
    def channels(self) -> int:
        return self._legacy(1)

    @property
    def height(self) -> int:
        return self._legacy(2)

    @property
    def width(self) -> int:
        return self._legacy(3)

    def _legacy(self, axis: int) -> int:
        shape = self.shape
        if len(shape) > 4:
            raise NetcError(
                f"a blob of {len(shape)} axes has no num, channels, height, width", remedy="use shape"
            )
        return shape[axis] if axis < len(shape) else 1

    def reshape(self, *shape: int) -> None:
        """Gives an input another shape; the rest of the net follows at its next `reshape` or `forward`."""
        if self._reshape is None:
            raise NetcError(
                "only the tops of Input layers can be reshaped", remedy="reshape the net's inputs"
            )
        self._reshape(tuple(int(n) for n in shape))

    def __repr__(self) -> str:
        return f"Blob{self.shape}"
