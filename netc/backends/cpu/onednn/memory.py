"""How arrays look to oneDNN: descriptors of shape and layout, and memories over NumPy's."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_void_p

import numpy as np

from netc.backends.cpu.onednn import kinds
from netc.backends.cpu.onednn.engine import Engine, Handle
from netc.backends.cpu.onednn.functions import dims


class Descriptor(Handle):
    """The shape and the layout of an array; of float32, unless a type is named."""

    __slots__ = ("shape",)

    def __init__(self, engine: Engine, made: c_void_p, shape: Sequence[int] = ()) -> None:
        super().__init__(engine, made, "memory_desc_destroy")
        self.shape = tuple(shape)

    @classmethod
    def strided(
        cls,
        engine: Engine,
        shape: Sequence[int],
        strides: Sequence[int] | None = None,
        dtype: int = kinds.FLOAT32,
    ) -> Descriptor:
        """An array with these strides, counted in elements; row-major without them."""
        if strides is None:
            strides = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]
        arguments = (len(shape), dims(shape), dtype, dims(strides))
        return cls(engine, engine.functions.create("memory_desc_create_with_strides", *arguments), shape)

    @classmethod
    def tagged(cls, engine: Engine, shape: Sequence[int], tag: str, dtype: int = kinds.FLOAT32) -> Descriptor:
        """An array in a layout of oneDNN's own, such as aBcd8b."""
        return cls._of_tag(engine, shape, engine.tag(tag), dtype)

    @classmethod
    def any(cls, engine: Engine, shape: Sequence[int], dtype: int = kinds.FLOAT32) -> Descriptor:
        """An array whose layout a primitive may choose."""
        return cls._of_tag(engine, shape, kinds.ANY_TAG, dtype)

    @classmethod
    def _of_tag(cls, engine: Engine, shape: Sequence[int], tag: int, dtype: int) -> Descriptor:
        arguments = (len(shape), dims(shape), dtype, tag)
        return cls(engine, engine.functions.create("memory_desc_create_with_tag", *arguments), shape)

    @classmethod
    def copied(cls, engine: Engine, address: int) -> Descriptor:
        """A copy of a descriptor that belongs to a primitive."""
        return cls(engine, engine.functions.create("memory_desc_clone", c_void_p(address)))

    def part(self, shape: Sequence[int], offsets: Sequence[int]) -> Descriptor:
        """A box of this array, as a view of its memory."""
        arguments = (self, dims(shape), dims(offsets))
        made = self.engine.functions.create("memory_desc_create_submemory", *arguments)
        return Descriptor(self.engine, made, shape)

    @property
    def nbytes(self) -> int:
        """The bytes that the array takes, padding included."""
        size: int = self.engine.functions["memory_desc_get_size"](self)
        return size

    @property
    def dtype(self) -> int:
        """The type of its elements."""
        number = ctypes.c_int()
        self.engine.functions.call("memory_desc_query", self, kinds.DATA_TYPE, ctypes.byref(number))
        return number.value

    def is_like(self, other: Descriptor) -> bool:
        """Whether both say the same."""
        return bool(self.engine.functions["memory_desc_equal"](self, other))


class Memory(Handle):
    """A NumPy array in the shape and the layout of a descriptor; keeps the array alive."""

    __slots__ = ("array",)

    def __init__(self, descriptor: Descriptor, array: np.ndarray) -> None:
        engine = descriptor.engine
        made = engine.functions.create("memory_create", descriptor, engine.handle, array.ctypes.data)
        super().__init__(engine, made, "memory_destroy")
        self.array = array
