"""Vectors of eight floats, and of eight whole numbers, for loops to compute with; needs numba.

They are values in registers: a loop loads them from an address, combines them and stores them. Where the
machine's vectors are shorter or longer, the compiler makes do.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

LANES: Final = 8
INT: Final = ir.IntType(32)
BYTE: Final = ir.IntType(8)
WORD, WIDE = ir.IntType(64), ir.IntType(128)


class VectorType(types.Type):
    """The type of a vector of these elements in numba."""

    def __init__(self, name: str, element: ir.Type) -> None:
        super().__init__(name=f"Vector({name})")
        self.lanes = ir.VectorType(element, LANES)


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    """A vector is one value of the compiler's."""

    def __init__(self, manager: Any, vector: VectorType) -> None:
        super().__init__(manager, vector, vector.lanes)


FLOATS: Final = VectorType("float32", ir.FloatType())
NUMBERS: Final = VectorType("int32", INT)
CONTRACT: Final = ("contract",)  # a product and a sum may be one instruction
IN_MEMORY: Final = ir.VectorType(BYTE, LANES)  # numbers, from 0 to 255


def _operation(result: Any, arguments: tuple[Any, ...], emit: Callable[..., Any]) -> Any:
    """What an intrinsic returns: its signature, and how its code is written, by `emit(builder, *arguments)`.
    result: None for what only stores."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        written = emit(builder, *values)
        return context.get_dummy_value() if result is None else written

    return (result or types.void)(*arguments), generate


def _pointer(builder: Any, address: Any, to: Any) -> Any:
    return builder.inttoptr(address, to.as_pointer())


def _splat(builder: Any, value: Any) -> Any:
    """The vector whose lanes all hold a value."""
    undefined = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(INT, 0))
    lanes = ir.Constant(ir.VectorType(INT, LANES), [0] * LANES)
    return builder.shuffle_vector(first, undefined, lanes)


@intrinsic
def load(typing_context, address):
    """Eight floats."""

    def emit(builder, address):
        loaded = builder.load(_pointer(builder, address, FLOATS.lanes))
        loaded.align = 4
        return loaded

    return _operation(FLOATS, (types.int64,), emit)


@intrinsic
def store(typing_context, address, floats):
    """Writes eight floats."""

    def emit(builder, address, floats):
        builder.store(floats, _pointer(builder, address, FLOATS.lanes)).align = 4

    return _operation(None, (types.int64, FLOATS), emit)


@intrinsic
def spread(typing_context, value):
    """A float in every lane."""
    return _operation(FLOATS, (types.float32,), _splat)


@intrinsic
def load_numbers(typing_context, address):
    """Eight numbers from 0 to 255, a byte each."""

    def emit(builder, address):
        loaded = builder.load(_pointer(builder, address, IN_MEMORY))
        loaded.align = 1
        return builder.zext(loaded, NUMBERS.lanes)

    return _operation(NUMBERS, (types.int64,), emit)


@intrinsic
def store_numbers(typing_context, address, numbers):
    """Writes eight numbers from 0 to 255, a byte each."""

    def emit(builder, address, numbers):
        narrow = builder.trunc(numbers, IN_MEMORY)
        builder.store(narrow, _pointer(builder, address, IN_MEMORY)).align = 1

    return _operation(None, (types.int64, NUMBERS), emit)


@intrinsic
def spread_number(typing_context, value):
    """A number in every lane."""

    def emit(builder, value):
        return _splat(builder, builder.trunc(value, INT))

    return _operation(NUMBERS, (types.int64,), emit)


@intrinsic
def add(typing_context, left, right):
    """left + right, of either kind."""

    def emit(builder, a, b):
        return builder.fadd(a, b) if left is FLOATS else builder.add(a, b)

    return _operation(left, (left, left), emit)


@intrinsic
def subtract(typing_context, left, right):
    """left - right."""
    return _operation(FLOATS, (FLOATS, FLOATS), lambda builder, a, b: builder.fsub(a, b))


@intrinsic
def multiply(typing_context, left, right):
    """left * right."""
    return _operation(FLOATS, (FLOATS, FLOATS), lambda builder, a, b: builder.fmul(a, b))


@intrinsic
def multiply_add(typing_context, left, right, summand):
    """left * right + summand, rounded once where the machine can."""

    def emit(builder, left, right, summand):
        product = builder.fmul(left, right, flags=CONTRACT)
        return builder.fadd(product, summand, flags=CONTRACT)

    return _operation(FLOATS, (FLOATS, FLOATS, FLOATS), emit)


@intrinsic
def where_larger(typing_context, left, right, then, otherwise):
    """In each lane `then` where left > right (never, for NaNs), else `otherwise`; these of either kind."""

    def emit(builder, left, right, then, otherwise):
        return builder.select(builder.fcmp_ordered(">", left, right), then, otherwise)

    return _operation(then, (FLOATS, FLOATS, then, then), emit)


@intrinsic
def where_equal(typing_context, left, right, then, otherwise):
    """In each lane `then` where two numbers are equal, else `otherwise`."""

    def emit(builder, left, right, then, otherwise):
        return builder.select(builder.icmp_signed("==", left, right), then, otherwise)

    return _operation(FLOATS, (NUMBERS, NUMBERS, FLOATS, FLOATS), emit)


@intrinsic
def from_lane(typing_context, first, floats):
    """Zeros in the lanes before this one."""

    def emit(builder, first, floats):
        numbers = ir.Constant(NUMBERS.lanes, list(range(LANES)))
        kept = builder.icmp_signed(">=", numbers, _splat(builder, builder.trunc(first, INT)))
        return builder.select(kept, floats, ir.Constant(FLOATS.lanes, [0.0] * LANES))

    return _operation(FLOATS, (types.int64, FLOATS), emit)


@intrinsic
def where_bits(typing_context, bits, floats):
    """Zeros in the lanes whose bit is none."""

    def emit(builder, bits, floats):
        places = ir.Constant(NUMBERS.lanes, [1 << lane for lane in range(LANES)])
        own = builder.and_(_splat(builder, builder.trunc(bits, INT)), places)
        kept = builder.icmp_signed("!=", own, ir.Constant(NUMBERS.lanes, [0] * LANES))
        return builder.select(kept, floats, ir.Constant(FLOATS.lanes, [0.0] * LANES))

    return _operation(FLOATS, (types.int64, FLOATS), emit)


@intrinsic
def high_product(typing_context, left, right):
    """The upper half of the product of two words of 64 bits."""

    def emit(builder, left, right):
        whole = builder.mul(*(builder.zext(side, WIDE) for side in (left, right)))
        return builder.trunc(builder.lshr(whole, ir.Constant(WIDE, 64)), WORD)

    return _operation(types.uint64, (types.uint64, types.uint64), emit)
