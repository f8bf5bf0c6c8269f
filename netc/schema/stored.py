"""Parameters that lie in an open file, to be checked before any is read and then read one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


class StoredArray(Protocol):
    """An array in an open file: its shape is known, its values are read where they are wanted."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read_into(self, target: Any) -> None:
        """Fills a contiguous array of as many elements with the values, rounded to float32 first.

        Raises NetcError naming the file where it turns out to be damaged; `target` may hold a part then.
        """


def read_array(stored: StoredArray) -> Array:
    """The values in memory of their own. Raises NetcError as `read_into` does."""
    array = np.empty(stored.shape, np.float32)
    stored.read_into(array)
    return array


def pieces(shape: Sequence[int], most: int) -> Iterator[tuple[Any, ...]]:
    """Selections of at most `most` elements that cover an array, in the order of its memory."""
    inner, axis = 1, len(shape) - 1
    while axis > 0 and inner * shape[axis] <= most:
        inner *= shape[axis]
        axis -= 1
    if axis < 0:
        yield ()
        return
    step = max(1, most // max(1, inner))
    for index in product(*map(range, shape[:axis])):
        for start in range(0, shape[axis], step):
            yield (*index, slice(start, start + step))
