"""protobuf's wire format by hand: large arrays go from file to memory and back without protobuf's own copies.

Python's protobuf takes many seconds to pack the floats of a large net. The walk below touches tags and
lengths only, skips what it does not know, and finds every length that points outside of its message.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
FIXED_SIZES = {FIXED64: 8, FIXED32: 4}
LONGEST_VARINT = 10
LONGEST_HEADER = 2 * LONGEST_VARINT
LARGEST_MESSAGE = 2**31 - 1
"""protobuf reads and writes no message of more bytes."""


class WireError(ValueError):
    """The bytes are no protobuf message."""


class Bytes(Protocol):
    """What a walk looks at, one byte after another."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> int: ...


class Field(NamedTuple):
    """number, wire: from the tag; value: of a varint, else 0; start, stop: of the content in the buffer."""

    number: int
    wire: int
    value: int
    start: int
    stop: int


def read_varint(buffer: Bytes, at: int, stop: int) -> tuple[int, int]:
    """The number at `at`, and the offset behind it."""
    value = 0
    for index in range(LONGEST_VARINT):
        if at + index >= stop:
            raise WireError("a number is cut off")
        byte = buffer[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & (2**64 - 1), at + index + 1
    raise WireError("a number is too long")


def walk(buffer: Bytes, start: int = 0, stop: int | None = None) -> Iterator[Field]:
    """The fields of the message in `buffer[start:stop]`, in the order they stand there. Raises WireError."""
    at, stop = start, len(buffer) if stop is None else stop
    while at < stop:
        field = read_header(buffer, at, stop)
        if field.stop > stop:
            raise WireError(f"field {field.number} reaches {field.stop - stop} bytes past its end")
        yield field
        at = field.stop


def read_header(buffer: Bytes, at: int, stop: int) -> Field:
    """The field that begins at `at`; its content may reach past `stop`, its header may not."""
    tag, at = read_varint(buffer, at, stop)
    number, wire = tag >> 3, tag & 7
    if not 0 < number < 2**29:
        raise WireError(f"there is no field number {number}")
    if wire == VARINT:
        value, end = read_varint(buffer, at, stop)
        return Field(number, wire, value, at, end)
    if wire == LENGTH:
        size, at = read_varint(buffer, at, stop)
    elif wire in FIXED_SIZES:
        size = FIXED_SIZES[wire]
    else:
        raise WireError(f"field {number} has the unknown wire type {wire}")
    return Field(number, wire, 0, at, at + size)


def signed(value: int) -> int:
    """A varint as an int32 or int64, which are written in two's complement."""
    return value - 2**64 if value >= 2**63 else value


def varint(value: int) -> bytes:
    """The bytes of an integer; negative ones take ten."""
    value &= 2**64 - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def length_header(number: int, size: int) -> bytes:
    """What stands before the `size` bytes of a string, message or packed array."""
    return varint(number << 3 | LENGTH) + varint(size)


def varint_field(number: int, value: int) -> bytes:
    return varint(number << 3 | VARINT) + varint(value)
