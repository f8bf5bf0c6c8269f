"""How image-shaped values lie in the CPU's memory: plain, channels last, or in blocks of channels.

A plain value is a row-major array. In `nhwc` the array is a strided view of the shape (N, C, H, W). In
`blocked` it is the flat memory: for each image, each block of channels and each pixel the block's channels
side by side (oneDNN's nChw8c or nChw16c), the last block filled up with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from netc.backends.cpu.onednn import Descriptor, Engine, kinds
from netc.backends.form import BLOCKED, NHWC, PLAIN, Mode
from netc.graph import Value
from netc.layer import Shape
from netc.layer.base import count

IMAGE_CHANNELS: Final = 4  # a bottom of no more holds images
WASTE: Final = 0.05  # of the work that may go into padding


def layout_for(value: Value, mode: Mode) -> str:
    """The layout that the mode asks for, plain for values that are not image-shaped."""
    return mode.layout if len(value.shape) == 4 else PLAIN


def elements_of(shape: Shape, layout: str, block: int) -> int:
    """The floats that a value takes in this layout, with blocks of this many channels."""
    if layout != BLOCKED:
        return count(shape)
    images, channels, *pixels = shape
    return images * -(-channels // block) * block * count(pixels)


def descriptor_of(
    engine: Engine, shape: Shape, layout: str = PLAIN, dtype: int = kinds.FLOAT32
) -> Descriptor:
    """A value's array as oneDNN sees it. A scalar is seen as a vector of one."""
    if layout == BLOCKED:
        return Descriptor.tagged(engine, shape, f"aBcd{engine.block}b", dtype)
    if layout == NHWC:
        _, channels, height, width = shape
        strides = (height * width * channels, 1, width * channels, channels)
        return Descriptor.strided(engine, shape, strides, dtype)
    return Descriptor.strided(engine, shape or (1,), dtype=dtype)


def flat_of(engine: Engine, shape: Shape, layout: str) -> Descriptor:
    """A value's memory as a vector, padding included: for what gives zeros where all arguments are zeros."""
    return Descriptor.strided(engine, (elements_of(shape, layout, engine.block),))


def layout_of(values: Sequence[Value]) -> str:
    """The layout that most of these values have, the first's of several that as many have."""
    layouts = [value.layout for value in values]
    return max(layouts, key=layouts.count)


def filled(channels: int, block: int) -> float:
    """How many times as many channels their blocks have."""
    return -(-channels // block) * block / channels
