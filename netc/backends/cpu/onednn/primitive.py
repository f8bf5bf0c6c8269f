"""Primitives: what oneDNN is asked to compute, and which implementation it answers with."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_void_p
from typing import Any, Final

from netc.backends.cpu.onednn import kinds
from netc.backends.cpu.onednn.engine import Engine, Handle
from netc.backends.cpu.onednn.memory import Descriptor

USER_SCRATCHPAD: Final = 1
COPIES: Final = ("reorder", "sum")  # whose simple implementations are as fast as memory


class Attributes(Handle):
    """How a primitive computes: with scratch memory from us and, on demand, more work on each result.

    add: results are added to what is there. factor: they are multiplied by an array of this description, then
    another one is added; both are further arguments (`kinds.operand_after` 0 and 1). slope: at the end comes
    a ReLU with this negative slope.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        add: bool = False,
        factor: Descriptor | None = None,
        slope: float | None = None,
    ) -> None:
        functions = engine.functions
        super().__init__(engine, functions.create("primitive_attr_create"), "primitive_attr_destroy")
        functions.call("primitive_attr_set_scratchpad_mode", self, USER_SCRATCHPAD)
        after = Handle(engine, functions.create("post_ops_create"), "post_ops_destroy")
        if add:
            functions.call("post_ops_append_sum", after, 1.0, 0, 0)
        for operation in (kinds.MULTIPLY, kinds.ADD) if factor is not None else ():
            functions.call("post_ops_append_binary", after, operation, factor)
        if slope is not None:
            functions.call("post_ops_append_eltwise", after, kinds.RELU, slope, 0.0)
        functions.call("primitive_attr_set_post_ops", self, after)


class PrimitiveDescriptor(Handle):
    """What a primitive will compute, and on arrays of which layouts."""

    __slots__ = ("_arguments", "kind")

    def __init__(self, engine: Engine, kind: str, *values: Any) -> None:
        made = engine.functions.create(f"{kind}_primitive_desc_create", *values)
        super().__init__(engine, made, "primitive_desc_destroy")
        self.kind = kind
        self._arguments: dict[int, Descriptor] = {}

    def argument(self, number: int) -> Descriptor:
        """How one of its arguments must lie."""
        if number not in self._arguments:
            self._arguments[number] = self._queried(kinds.ARGUMENT_OF, number)
        return self._arguments[number]

    @property
    def scratchpad(self) -> Descriptor:
        """The memory that it works in."""
        return self._queried(kinds.SCRATCHPAD_OF, 0)

    @property
    def implementation(self) -> str:
        """What oneDNN calls the code that it chose, such as jit:avx2; ref is its slow fallback."""
        name = c_char_p()
        functions = self.engine.functions
        functions.call("primitive_desc_query", self, kinds.IMPLEMENTATION, 0, ctypes.byref(name))
        return (name.value or b"").decode()

    @property
    def is_slow(self) -> bool:
        """Whether oneDNN has no fast implementation for these shapes and layouts."""
        slow = ("ref",) if self.kind in COPIES else ("ref", "simple")
        return self.implementation.startswith(slow)

    def _queried(self, what: int, index: int) -> Descriptor:
        address = self.engine.functions["primitive_desc_query_md"](self, what, index)
        assert address, f"{self.kind} has no argument {index}"
        return Descriptor.copied(self.engine, address)


def describe(
    engine: Engine, kind: str, *arguments: Any, attributes: Attributes | None = None
) -> PrimitiveDescriptor:
    """A primitive of a kind such as "convolution_forward". Raises Refused where oneDNN has none that fits.

    arguments: those of the C function, without the engine and the attributes, which stand first and last.
    """
    return PrimitiveDescriptor(engine, kind, engine.handle, *arguments, attributes or Attributes(engine))


def describe_reorder(
    engine: Engine, source: Descriptor, target: Descriptor, *, add: bool = False
) -> PrimitiveDescriptor:
    """A copy from one layout into another; with `add`, a sum of both in the target."""
    values = (source, engine.handle, target, engine.handle, Attributes(engine, add=add))
    return PrimitiveDescriptor(engine, "reorder", *values)


class Primitive(Handle):
    """A primitive, ready to be executed on memories."""

    def __init__(self, descriptor: PrimitiveDescriptor) -> None:
        engine = descriptor.engine
        super().__init__(engine, engine.functions.create("primitive_create", descriptor), "primitive_destroy")


class Argument(ctypes.Structure):
    """One argument of an execution: which, and where it lies."""

    _fields_ = (("number", ctypes.c_int), ("memory", c_void_p))
