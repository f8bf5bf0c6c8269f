"""Sums of products that stay in vector registers, for the CPU's loops; needs numba.

LLVM does not find such code in scalar loops: it is written here in LLVM's own terms, for any tile of vectors.
Addresses are integers, and steps between what lies there are in bytes.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

BYTES: Final = 4  # of a float
FLOAT: Final = ir.FloatType()
LONG: Final = ir.IntType(64)
FUSED: Final = ("contract",)  # a product and a sum as one instruction


@intrinsic(prefer_literal=True)
def pack_vectors(
    typing_context, lanes, relu, source, top, target, sums, pixels, pixel_step, target_step, slope
):
    """target[pixel] = source[pixel], one vector each, times the slope where top[pixel] is not positive;
    sums += the sum of them all.

    lanes, relu (0: without `top`): constants. source, top, target, sums: addresses of floats.
    """
    vector, rectified = ir.VectorType(FLOAT, lanes.literal_value), relu.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, _, source, top, target, sums, pixels, pixel_step, target_step, slope = args
        slopes, nothing = _spread(builder, slope, vector), _nothing(vector)
        total = cgutils.alloca_once(builder, vector)
        builder.store(nothing, total)
        with cgutils.for_range(builder, pixels) as pixel:
            here = builder.mul(pixel.index, pixel_step)
            value = _load(builder, source, here, vector)
            if rectified:
                passes = builder.fcmp_ordered(">", _load(builder, top, here, vector), nothing)
                value = builder.select(passes, value, builder.fmul(value, slopes))
            there = _at(builder, target, builder.mul(pixel.index, target_step), vector)
            builder.store(value, there, align=BYTES)
            builder.store(builder.fadd(builder.load(total), value), total)
        _add_to(builder, sums, LONG(0), builder.load(total))
        return context.get_dummy_value()

    return types.void(lanes, relu, *[types.int64] * 7, types.float32), generate


@intrinsic(prefer_literal=True)
def sum_tile(typing_context, lanes, vectors, taps, sums, sums_step, panel, seen, offsets, walk):
    """sums[tap] += the sum over pixels of seen[pixel + offsets[tap]] panel[pixel], a number times so many
    vectors.

    lanes, vectors, taps: the tile's, constants. sums, panel, seen, offsets: addresses of floats, but of
    integers, in bytes, for `offsets`. walk: the rows of pixels, the pixels of a row, and in `seen` the step
    from row to row and from pixel to pixel; in the panel pixels lie close together.
    """
    vector = ir.VectorType(FLOAT, lanes.literal_value)
    parts, count, width = range(vectors.literal_value), taps.literal_value, BYTES * lanes.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, _, _, sums, sums_step, panel, seen, offsets, walk = args
        rows, columns, row_step, step = (builder.extract_value(walk, i) for i in range(4))
        bases = [builder.add(seen, _load(builder, offsets, LONG(8 * tap), LONG)) for tap in range(count)]
        totals = [[cgutils.alloca_once(builder, vector) for _ in parts] for _ in range(count)]
        for total in (place for tap in totals for place in tap):
            builder.store(_nothing(vector), total)
        pixel, along = (cgutils.alloca_once(builder, LONG) for _ in range(2))
        builder.store(panel, pixel)
        with cgutils.for_range(builder, rows) as row:
            builder.store(builder.mul(row.index, row_step), along)
            with cgutils.for_range(builder, columns):
                here, place = builder.load(pixel), builder.load(along)
                values = [_load(builder, here, LONG(width * part), vector) for part in parts]
                for base, of_tap in zip(bases, totals, strict=True):
                    factor = _spread(builder, _load(builder, base, place, FLOAT), vector)
                    for value, total in zip(values, of_tap, strict=True):
                        product = builder.fmul(factor, value, flags=FUSED)
                        builder.store(builder.fadd(builder.load(total), product, flags=FUSED), total)
                builder.store(builder.add(here, LONG(width * len(parts))), pixel)
                builder.store(builder.add(place, step), along)
        for tap, of_tap in enumerate(totals):
            start = builder.add(sums, builder.mul(LONG(tap), sums_step))
            for part, total in zip(parts, of_tap, strict=True):
                _add_to(builder, start, LONG(width * part), builder.load(total))
        return context.get_dummy_value()

    return types.void(lanes, vectors, taps, *[types.int64] * 5, types.UniTuple(types.int64, 4)), generate


def _nothing(vector: Any) -> Any:
    return vector([0.0] * vector.count)


def _spread(builder: Any, value: Any, vector: Any) -> Any:
    """A vector whose lanes all hold this value."""
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
    firsts = ir.VectorType(ir.IntType(32), vector.count)([0] * vector.count)
    return builder.shuffle_vector(single, single, firsts)


def _at(builder: Any, base: Any, offset: Any, element: Any) -> Any:
    """A pointer to what lies so many bytes behind an address."""
    return builder.inttoptr(builder.add(base, offset), element.as_pointer())


def _load(builder: Any, base: Any, offset: Any, element: Any) -> Any:
    return builder.load(_at(builder, base, offset, element), align=BYTES)


def _add_to(builder: Any, base: Any, offset: Any, vector: Any) -> None:
    target = _at(builder, base, offset, vector.type)
    builder.store(builder.fadd(builder.load(target, align=BYTES), vector), target, align=BYTES)
