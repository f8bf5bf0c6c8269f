"""Weights as `.caffemodel`: a NetParameter whose layers, of any generation, hold BlobProtos."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from netc.errors import NetcError
from netc.schema.blobs import Array, blob_shape, blob_size, parse_blob, write_blob
from netc.schema.layer_keys import LayerKey, layer_keys, nth_key
from netc.schema.reading import open_file
from netc.schema.wire import (
    LENGTH,
    LONGEST_HEADER,
    WireError,
    length_header,
    read_header,
    walk,
)

# Field numbers: of NetParameter, and of the name, blobs and inner layer of each generation of layers.
NET_NAME, NET_V1_LAYER, NET_LAYER = 1, 2, 100
LAYER_NAME, LAYER_BLOBS = 1, 7
V1_NAME, V1_BLOBS, V1_INNER = 4, 6, 1
V0_NAME, V0_BLOBS = 1, 50


class StoredBlob:
    """A parameter in an open `.caffemodel`: the bytes of a BlobProto, from an offset of the file on."""

    def __init__(self, file: BinaryIO, path: str, offset: int, size: int, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._file = file
        self._path = path
        self._offset = offset
        self._size = size

    def read_into(self, target: Any) -> None:
        with _damage_named(self._path):
            self._file.seek(self._offset)
            array = parse_blob(memoryview(self._file.read(self._size)))
            if array.shape != self.shape:
                raise WireError("it is being written to")
        target[...] = array.reshape(target.shape)


class _Layer(NamedTuple):
    """A layer of the file: its bytes, where they begin, its name, and the spans of its blobs within it."""

    content: memoryview
    offset: int
    name: str
    blobs: list[tuple[int, int]]
    key: LayerKey = ""  # among the layers that have blobs


def read_binary_weights(path: str | os.PathLike[str]) -> dict[LayerKey, list[Array]]:
    """The parameters of each layer that has any, by layer. Raises NetcError naming the file."""
    with open_file(path) as file, _damage_named(path):
        return {
            layer.key: [parse_blob(layer.content, start, stop) for start, stop in layer.blobs]
            for layer in _layers(file, path)
        }


@contextmanager
def open_binary_weights(path: str | os.PathLike[str]) -> Iterator[dict[LayerKey, list[StoredBlob]]]:
    """The parameters as `read_binary_weights` gives them, each to be read within the block."""
    name = os.fspath(path)
    with open_file(path) as file:
        with _damage_named(path):
            weights = {
                layer.key: [
                    StoredBlob(
                        file,
                        name,
                        layer.offset + start,
                        stop - start,
                        blob_shape(layer.content, start, stop),
                    )
                    for start, stop in layer.blobs
                ]
                for layer in _layers(file, path)
            }
        yield weights


@contextmanager
def _damage_named(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except (WireError, MemoryError) as error:
        raise NetcError(
            f"the file is no whole .caffemodel: {error or 'it claims more than the memory holds'}",
            at=os.fspath(path),
            expected="the NetParameter of a trained net",
            remedy="it is cut short, damaged or of another kind: use another copy",
        ) from error


def _layers(file: BinaryIO, path: str | os.PathLike[str]) -> Iterator[_Layer]:
    """The layers that have parameters, one at a time. Raises WireError, or NetcError if there is no layer."""
    count = 0
    met: Counter[str] = Counter()
    for number, offset, content in _top_level(file):
        count += 1
        layer = _layer(number, offset, memoryview(content))
        if layer.blobs:
            met[layer.name] += 1
            yield layer._replace(key=nth_key(layer.name, met[layer.name]))
    if not count:
        raise NetcError(
            "the weights file has no layers", at=os.fspath(path), remedy="check that it is a .caffemodel"
        )


def _top_level(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """The layers of a NetParameter, one at a time: field number, offset in the file, and bytes."""
    size = os.fstat(file.fileno()).st_size
    if not size:
        raise WireError("it is empty")
    at = 0
    while at < size:
        file.seek(at)
        header = memoryview(file.read(LONGEST_HEADER))
        part = read_header(header, 0, len(header))
        if at + part.stop > size:
            raise WireError(f"field {part.number} reaches {at + part.stop - size} bytes past the end")
        if part.number == NET_NAME and part.wire != LENGTH:
            raise WireError("its first field is that of a solver state or a mean")
        if part.number in (NET_LAYER, NET_V1_LAYER) and part.wire == LENGTH:
            file.seek(at + part.start)
            yield part.number, at + part.start, file.read(part.stop - part.start)
        at += part.stop


def _layer(number: int, offset: int, content: memoryview) -> _Layer:
    if number == NET_LAYER:
        return _named(content, offset, LAYER_NAME, LAYER_BLOBS)
    for part in walk(content):
        if part.number == V1_INNER and part.wire == LENGTH:
            return _named(content[part.start : part.stop], offset + part.start, V0_NAME, V0_BLOBS)
    return _named(content, offset, V1_NAME, V1_BLOBS)


def _named(content: memoryview, offset: int, name_number: int, blobs_number: int) -> _Layer:
    name, blobs = "", []
    for part in walk(content):
        if part.wire != LENGTH:
            continue
        if part.number == name_number:
            name = bytes(content[part.start : part.stop]).decode("utf-8", "replace")
        elif part.number == blobs_number:
            blobs.append((part.start, part.stop))
    return _Layer(content, offset, name, blobs)


def write_binary_weights(
    file: BinaryIO,
    definition: Any,
    weights: Mapping[LayerKey, Sequence[npt.ArrayLike]],
    diffs: Mapping[LayerKey, Sequence[npt.ArrayLike]] | None,
) -> None:
    """Writes a net and its parameters byte for byte as protobuf would, without its copies."""
    head = type(definition)()
    head.CopyFrom(definition)
    head.ClearField("layer")
    file.write(head.SerializePartialToString())
    keys = layer_keys(layer.name for layer in definition.layer)
    for layer, key in zip(definition.layer, keys, strict=True):
        before, after = _around_blobs(layer)
        arrays = list(weights.get(key, ()))
        gradients = list(diffs.get(key, ())) if diffs else [None] * len(arrays)
        sizes = [blob_size(np.shape(array), diffs is not None) for array in arrays]
        blobs_size = sum(len(length_header(LAYER_BLOBS, size)) + size for size in sizes)
        file.write(length_header(NET_LAYER, len(before) + blobs_size + len(after)))
        file.write(before)
        for array, gradient, size in zip(arrays, gradients, sizes, strict=True):
            file.write(length_header(LAYER_BLOBS, size))
            write_blob(file, array, gradient)
        file.write(after)


def _around_blobs(layer: Any) -> tuple[bytes, bytes]:
    """The fields of a LayerParameter that protobuf writes before its blobs, and those it writes after."""
    before, after = type(layer)(), type(layer)()
    before.CopyFrom(layer)
    after.CopyFrom(layer)
    for field, _ in layer.ListFields():
        if field.number >= LAYER_BLOBS:
            before.ClearField(field.name)
        if field.number <= LAYER_BLOBS:
            after.ClearField(field.name)
    return before.SerializePartialToString(), after.SerializePartialToString()
