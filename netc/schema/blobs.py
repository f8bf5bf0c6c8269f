"""BlobProtos as NumPy arrays: parameters, solver history and mean files."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.schema.atomic import replacing
from netc.schema.file_bytes import FileBytes
from netc.schema.reading import read_bytes
from netc.schema.wire import (
    FIXED32,
    FIXED64,
    LARGEST_MESSAGE,
    LENGTH,
    VARINT,
    Bytes,
    Field,
    WireError,
    length_header,
    read_header,
    read_varint,
    signed,
    varint,
    varint_field,
    walk,
)

Array = npt.NDArray[np.float32]

# Field numbers of BlobProto and BlobShape.
NUM, CHANNELS, HEIGHT, WIDTH, DATA, DIFF, SHAPE, DOUBLE_DATA, DOUBLE_DIFF = range(1, 10)
DIM = 1
LEGACY_AXES = (NUM, CHANNELS, HEIGHT, WIDTH)
FLOAT: np.dtype[Any] = np.dtype("<f4")
DOUBLE: np.dtype[Any] = np.dtype("<f8")
# The arrays of a BlobProto: their element type, and the wire type of one element by itself.
ELEMENTS: dict[int, tuple[np.dtype[Any], int]] = {
    DATA: (FLOAT, FIXED32),
    DIFF: (FLOAT, FIXED32),
    DOUBLE_DATA: (DOUBLE, FIXED64),
    DOUBLE_DIFF: (DOUBLE, FIXED64),
}
NO_WIRE = -1
MOST_AXES = 32
"""Caffe's limit, and NumPy's before 2.0."""


def array_to_blob(array: npt.ArrayLike) -> Any:
    """A BlobProto with `shape` and `data`."""
    values = np.asarray(array, dtype=np.float32)
    blob = pb.BlobProto()
    blob.shape.dim.extend(values.shape)
    blob.data.extend(values.ravel())
    return blob


def blob_to_array(blob: Any, diff: bool = False) -> Array:
    """The data (or diff) of a BlobProto, shaped. Raises NetcError where shape and count disagree."""
    legacy = any(blob.HasField(name) for name in ("num", "channels", "height", "width"))
    shape = (blob.num, blob.channels, blob.height, blob.width) if legacy else tuple(blob.shape.dim)
    doubles, floats = (blob.double_diff, blob.diff) if diff else (blob.double_data, blob.data)
    values = np.array(doubles if len(doubles) else floats, dtype=np.float32)
    try:
        return values.reshape(_checked(values.size, shape))
    except WireError as error:
        raise NetcError(f"the blob does not hold together: {error}") from error


def read_blob(path: str | os.PathLike[str]) -> Array:
    """The array in a `.binaryproto` file. Raises NetcError naming the file."""
    content = read_bytes(path)
    try:
        if not content:
            raise WireError("it is empty")
        return parse_blob(memoryview(content))
    except WireError as error:
        raise NetcError(
            f"the file is no whole BlobProto: {error}",
            at=os.fspath(path),
            remedy="make it again: it is cut short, damaged or of another kind",
        ) from error


def read_mean(path: str | os.PathLike[str]) -> Array:
    """The mean image (C, H, W) in a `.binaryproto` file. Raises NetcError naming the file."""
    mean = read_blob(path)
    shape = mean.shape[1:] if mean.ndim == 4 and mean.shape[0] == 1 else mean.shape
    if len(shape) != 3:
        raise NetcError(
            "the mean file does not hold one image",
            at=os.fspath(path),
            expected="1 x C x H x W",
            found=" x ".join(map(str, mean.shape)) or "a single number",
        )
    return mean.reshape(shape)


def write_mean(path: str | os.PathLike[str], mean: npt.ArrayLike) -> None:
    """Writes a mean image (C, H, W) with the old axes 1, C, H, W, as Caffe's compute_image_mean does."""
    values = np.ascontiguousarray(mean, dtype=FLOAT)
    if values.ndim != 3:
        raise ValueError(f"a mean image has the axes C, H, W, not the shape {values.shape}")
    axes = zip(LEGACY_AXES, (1, *values.shape), strict=True)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(b"".join(varint_field(number, size) for number, size in axes))
        file.write(length_header(DATA, values.nbytes))
        file.write(values.data.cast("B"))


# Writing


def blob_size(shape: Sequence[int], diff: bool = False) -> int:
    """The bytes of a BlobProto that `write_blob` makes of an array of this shape."""
    payload = FLOAT.itemsize * math.prod(shape)
    arrays = (len(length_header(DATA, payload)) + payload) * (2 if diff else 1)
    return arrays + len(_shape_field(shape))


def write_blob(file: BinaryIO, data: npt.ArrayLike, diff: npt.ArrayLike | None = None) -> None:
    """Writes a BlobProto with `data`, `diff` if given, and `shape`, straight from the arrays' memory."""
    for number, array in ((DATA, data), (DIFF, diff)):
        if array is not None:
            values = np.asarray(array, dtype=FLOAT, order="C")
            file.write(length_header(number, values.nbytes))
            file.write(values.reshape(-1).data.cast("B") if values.size else b"")
    file.write(_shape_field(np.shape(data)))


def _shape_field(shape: Sequence[int]) -> bytes:
    sizes = b"".join(varint(size) for size in shape)
    dims = length_header(DIM, len(sizes)) + sizes if sizes else b""
    return length_header(SHAPE, len(dims)) + dims


# Parsing


@dataclass
class _Parts:
    """The fields of a BlobProto as they come."""

    shape: list[int] = field(default_factory=list)
    legacy: dict[int, int] = field(default_factory=dict)
    arrays: dict[int, list[npt.NDArray[Any]]] = field(default_factory=dict)

    # As in Caffe, doubles win over floats and the old axes over `shape`.

    def chunks(self, diff: bool = False) -> list[npt.NDArray[Any]]:
        floats, doubles = (DIFF, DOUBLE_DIFF) if diff else (DATA, DOUBLE_DATA)
        return self.arrays.get(doubles) or self.arrays.get(floats) or []

    def checked_shape(self, diff: bool = False) -> tuple[int, ...]:
        """Raises WireError where the shape is not that of as many elements as there are."""
        return _checked(sum(chunk.size for chunk in self.chunks(diff)), self.axes())

    def axes(self) -> tuple[int, ...]:
        """The shape as it is written."""
        return tuple(self.legacy.get(axis, 0) for axis in LEGACY_AXES) if self.legacy else tuple(self.shape)


def parse_blob(buffer: memoryview, start: int = 0, stop: int | None = None, diff: bool = False) -> Array:
    """The data (or diff) of the BlobProto in `buffer[start:stop]`, in memory of its own. Raises WireError."""
    parts = _parts(buffer, start, stop)
    shape = parts.checked_shape(diff)
    values = np.empty(math.prod(shape), FLOAT)
    _join(parts.chunks(diff), values)
    return values.reshape(shape)


def parse_blobs(buffer: memoryview, spans: Iterable[tuple[int, int]]) -> list[Array]:
    """The data of the BlobProtos in `buffer[start:stop]` for each span, in one piece of memory of their own.

    It goes back to the system as a whole, where the memory of many arrays would stay with the process. Raises
    WireError.
    """
    blobs = [_parts(buffer, start, stop) for start, stop in spans]
    shapes = [blob.checked_shape() for blob in blobs]
    values = np.empty(sum(map(math.prod, shapes)), FLOAT)
    arrays = []
    for blob, shape in zip(blobs, shapes, strict=True):
        own, values = values[: math.prod(shape)], values[math.prod(shape) :]
        _join(blob.chunks(), own)
        arrays.append(own.reshape(shape))
    return arrays


class BlobPlan(NamedTuple):
    """The shape of the array that `parse_blob` gives, and where its numbers lie in one row as they lie in
    memory; None where they are doubles, in several rows, or not packed."""

    shape: tuple[int, ...]
    floats_at: int | None


def plan_blob(buffer: FileBytes, start: int, stop: int) -> BlobPlan:
    """How to read the data of the BlobProto in `buffer[start:stop]`, of which packed numbers are not looked
    at. Raises WireError."""
    parts = _Parts()
    floats: list[Field] = []
    for part in walk(buffer, start, stop):
        if part.number == DATA and part.wire == LENGTH:
            floats.append(part)
        elif part.number in ELEMENTS and (part.number, part.wire) != (DIFF, LENGTH):
            break
        _take_axes(buffer, part, parts)
    else:
        if len(floats) == 1 and (floats[0].stop - floats[0].start) % FLOAT.itemsize == 0:
            count = (floats[0].stop - floats[0].start) // FLOAT.itemsize
            return BlobPlan(_checked(count, parts.axes()), floats[0].start)
    return BlobPlan(_parts(memoryview(buffer.read(start, stop)), 0, None).checked_shape(), None)


def _parts(buffer: memoryview, start: int, stop: int | None) -> _Parts:
    stop = len(buffer) if stop is None else stop
    parts = _Parts()
    at = start
    while at < stop:
        part = read_header(buffer, at, stop)
        at = _take_part(buffer, part, at, stop, parts)
    return parts


def _join(chunks: Sequence[npt.NDArray[Any]], values: Array) -> None:
    """Copies the chunks, which are as many numbers as `values`, one after another."""
    at = 0
    for chunk in chunks:
        target = values[at : at + chunk.size]
        if chunk.dtype == FLOAT and chunk.flags.c_contiguous:
            # In a file floats stand at any offset: as bytes they copy ten times as fast.
            target.view(np.uint8)[:] = chunk.view(np.uint8)
        else:
            target[:] = chunk
        at += chunk.size


def _take_part(buffer: memoryview, part: Field, at: int, stop: int, parts: _Parts) -> int:
    """Adds one field, or a run of single elements, to `parts`; gives the offset behind it."""
    if part.stop > stop:
        raise WireError(f"field {part.number} reaches {part.stop - stop} bytes past its end")
    element, single = ELEMENTS.get(part.number, (FLOAT, NO_WIRE))
    if part.wire == single:
        # Writers that do not pack put a tag before each element.
        run = _run_of_singles(buffer, at, stop, element.itemsize)
        parts.arrays.setdefault(part.number, []).append(run)
        return at + run.size * (1 + element.itemsize)
    if part.number in ELEMENTS and part.wire == LENGTH:
        count, rest = divmod(part.stop - part.start, element.itemsize)
        if rest:
            raise WireError(f"the array of {part.stop - part.start} bytes ends within an element")
        array = np.frombuffer(buffer, element, count, part.start)
        parts.arrays.setdefault(part.number, []).append(array)
    else:
        _take_axes(buffer, part, parts)
    return part.stop


def _take_axes(buffer: Bytes, part: Field, parts: _Parts) -> None:
    """Adds a field to `parts` where it tells the shape."""
    if part.number in LEGACY_AXES and part.wire == VARINT:
        parts.legacy[part.number] = signed(part.value)
    elif part.number == SHAPE and part.wire == LENGTH:
        parts.shape.extend(_dims(buffer, part))


def _run_of_singles(buffer: memoryview, at: int, stop: int, size: int) -> npt.NDArray[Any]:
    """The elements from `at` on that each stand behind the same one-byte tag."""
    element = np.dtype([("tag", "u1"), ("value", FLOAT if size == FLOAT.itemsize else DOUBLE)])
    most, count = (stop - at) // element.itemsize, 64
    while True:
        count = min(count, most)
        records = np.frombuffer(buffer, element, count, at)
        others = np.flatnonzero(records["tag"] != buffer[at])
        if others.size:
            return records["value"][: others[0]]
        if count == most:
            return records["value"]
        count *= 4


def _dims(buffer: Bytes, shape: Field) -> list[int]:
    dims: list[int] = []
    for part in walk(buffer, shape.start, shape.stop):
        if part.number != DIM:
            continue
        if part.wire == VARINT:
            dims.append(signed(part.value))
        at = part.start
        while part.wire == LENGTH and at < part.stop and len(dims) <= MOST_AXES:
            value, at = read_varint(buffer, at, part.stop)
            dims.append(signed(value))
    return dims


def _checked(count: int, shape: Sequence[int]) -> tuple[int, ...]:
    if len(shape) > MOST_AXES:
        raise WireError(f"a blob has more than {MOST_AXES} axes")
    too_long = math.prod(size or 1 for size in shape) > LARGEST_MESSAGE  # even where an axis is 0
    if any(size < 0 for size in shape) or too_long or math.prod(shape) != count:
        shown = " x ".join(map(str, shape)) or "none"
        raise WireError(f"a blob holds {count} numbers, its shape is {shown}")
    return tuple(shape)
