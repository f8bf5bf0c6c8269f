"""Any number of items through a net of fixed batch size: cut into batches, and joined again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from netc.errors import NetcError


@dataclass(frozen=True)
class Batches:
    """Arrays of `count` items each, by name, in batches of `size` items; zeros fill up the last one."""

    arrays: Mapping[str, np.ndarray]
    count: int
    size: int

    @classmethod
    def empty(cls, other: Batches) -> Batches:
        """As many batches as another has, of no arrays."""
        return cls({}, other.count, other.size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, self.count, self.size):
            yield {name: self._batch(array, start) for name, array in self.arrays.items()}

    def _batch(self, array: np.ndarray, start: int) -> np.ndarray:
        batch = array[start : start + self.size]
        if len(batch) == self.size:
            return batch
        filled = np.zeros((self.size, *array.shape[1:]), array.dtype)
        filled[: len(batch)] = batch
        return filled


def batches(arrays: Mapping[str, Any], size: int) -> Batches:
    """The items of arrays, by name, in batches. Raises NetcError where there are none, or not as many in
    each."""
    items = {name: np.asarray(array) for name, array in arrays.items()}
    counts = {name: len(array) if array.ndim else 0 for name, array in items.items()}
    if not counts or min(counts.values()) == 0 or len(set(counts.values())) > 1:
        raise NetcError(
            "as many items are needed in every array, and at least one",
            found=", ".join(f"{name}: {count}" for name, count in counts.items()) or "no arrays",
            remedy="give an array for every input, e.g. net.forward_all(data=images)",
        )
    return Batches(items, next(iter(counts.values())), size)


def joined(found: Mapping[str, list[np.ndarray]], count: int) -> dict[str, np.ndarray]:
    """The batches' arrays joined, by name, without the rows that only filled up the last batch.

    What has no row for each item (a loss, say) has one value for each batch.
    """
    result = {}
    for name, arrays in found.items():
        whole = np.concatenate(arrays) if arrays[0].ndim else np.array(arrays)
        result[name] = whole[:count] if len(whole) >= count else whole
    return result
