"""A blob as its user sees it: live views of values and gradients that stay right when the net is reshaped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from netc.errors import NetcError
from netc.layer.base import Array, Shape


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
                "only the tops of an Input or of a Python layer can be reshaped",
                remedy="reshape the net's inputs",
            )
        self._reshape(tuple(int(n) for n in shape))

    def __dlpack__(self, **options: Any) -> Any:
        """The values without a copy, for `numpy.from_dlpack(blob)`, `torch.from_dlpack(blob)` and so on."""
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where the values lie, as DLPack counts devices."""
        return tuple(self.data.__dlpack_device__())  # type: ignore[return-value]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The values in a GPU's memory, without a copy; a blob in the CPU's memory has no such attribute."""
        return self.data.__cuda_array_interface__  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"Blob{self.shape}"


class Memory:
    """Values and gradient that a Blob shows; made when they are first looked at, zeros then."""

    def __init__(
        self, shape: Shape, dtype: Any = np.float32, data: Array | None = None, diff: Array | None = None
    ) -> None:
        self.shape = shape
        self._dtype = dtype
        self._data = data
        self._diff = diff

    @classmethod
    def of(cls, data: Array, diff: Array | None = None) -> Memory:
        """Memory that is there already."""
        return cls(tuple(data.shape), data.dtype, data, diff)

    def data(self) -> Array:
        if self._data is None:
            self._data = np.zeros(self.shape, self._dtype)
        return self._data

    def diff(self) -> Array:
        if self._diff is None:
            self._diff = np.zeros(self.shape, self._dtype)
        return self._diff

    def reshape(self, shape: Shape) -> None:
        """Memory of another shape; what this held stays with whoever had it."""
        if shape != self.shape:
            self.shape, self._data, self._diff = shape, None, None

    def bind(self, data: Array, diff: Array | None) -> None:
        """From now on shows these arrays."""
        self.shape, self._data, self._diff = tuple(data.shape), data, diff

    def blob(self, *, reshapes: bool = False) -> Blob:
        """A Blob of this memory; `reshapes`: its user may give it another shape."""
        return Blob(self.data, self.diff, self.reshape if reshapes else None)


class LayerBlobs(list[Blob]):
    """The parameters of one layer. In a Python layer's `setup`, `add_blob` asks for another one."""

    def __init__(self, blobs: Iterable[Blob] = ()) -> None:
        super().__init__(blobs)
        self._memory: list[Memory] = []

    def add_blob(self, *shape: int) -> Blob:
        """Adds a parameter of this shape, zeros at first; fill its `data` with first values."""
        memory = Memory(tuple(int(n) for n in shape))
        self._memory.append(memory)
        self.append(memory.blob())
        return self[-1]

    def bind(self, params: Sequence[Array], grads: Sequence[Array | None]) -> None:
        """Makes the blobs that were added show the net's own arrays from now on."""
        for index, memory in enumerate(self._memory):
            memory.bind(params[index], grads[index] if index < len(grads) else None)
