"""Weights as `.caffemodel`: a NetParameter whose layers, of any generation, hold BlobProtos."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from netc.errors import NetcError
from netc.schema.blobs import FLOAT, Array, blob_size, parse_blob, plan_blob, write_blob
from netc.schema.file_bytes import FileBytes
from netc.schema.layer_keys import LayerKey, layer_keys, nth_key
from netc.schema.reading import open_file
from netc.schema.stored import read_array
from netc.schema.wire import (
    LENGTH,
    WireError,
    length_header,
    walk,
)

# Field numbers: of NetParameter, and of the name, blobs and inner layer of each generation of layers.
NET_NAME, NET_V1_LAYER, NET_LAYER = 1, 2, 100
LAYER_NAME, LAYER_BLOBS = 1, 7
V1_NAME, V1_BLOBS, V1_INNER = 4, 6, 1
V0_NAME, V0_BLOBS = 1, 50


class StoredBlob:
    """A parameter in an open `.caffemodel`: the bytes of a BlobProto."""

    def __init__(self, file: BinaryIO, path: str, layer: _Layer, span: tuple[int, int]) -> None:
        """span: where the BlobProto lies in the layer's bytes."""
        self._file = file
        self._path = path
        self._content = layer.content
        self._span = span
        self.shape, self._floats_at = plan_blob(layer.content, *span)

    def read_into(self, target: Any) -> None:
        with _damage_named(self._path):
            fits = isinstance(target, np.ndarray) and target.dtype == FLOAT and target.flags.c_contiguous
            if fits and self._floats_at is not None and target.size == math.prod(self.shape):
                self._file.seek(self._content.offset + self._floats_at)
                read = self._file.readinto(target.reshape(-1).view(np.uint8))  # type: ignore[attr-defined]
                if read != target.nbytes:
                    raise WireError("it is being written to")
                return
            array = parse_blob(memoryview(self._content.read(*self._span)))
            if array.shape != self.shape:
                raise WireError("it is being written to")
        target[...] = array.reshape(target.shape)


class _Layer(NamedTuple):
    """A layer of the file: its bytes, its name, and the spans of its blobs within it."""

    content: FileBytes
    name: str
    blobs: list[tuple[int, int]]
    key: LayerKey = ""  # among the layers that have blobs


def read_binary_weights(path: str | os.PathLike[str]) -> dict[LayerKey, list[Array]]:
    """The parameters of each layer that has any, by layer. Raises NetcError naming the file."""
    with open_binary_weights(path) as weights:
        return {name: [read_array(stored) for stored in arrays] for name, arrays in weights.items()}


@contextmanager
def open_binary_weights(path: str | os.PathLike[str]) -> Iterator[dict[LayerKey, list[StoredBlob]]]:
    """The parameters as `read_binary_weights` gives them, each to be read within the block."""
    name = os.fspath(path)
    with open_file(path) as file:
        with _damage_named(path):
            weights = {
                layer.key: [StoredBlob(file, name, layer, span) for span in layer.blobs]
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
    for number, content in _top_level(file):
        count += 1
        layer = _layer(number, content)
        if layer.blobs:
            met[layer.name] += 1
            yield layer._replace(key=nth_key(layer.name, met[layer.name]))
    if not count:
        raise NetcError(
            "the weights file has no layers", at=os.fspath(path), remedy="check that it is a .caffemodel"
        )


def _top_level(file: BinaryIO) -> Iterator[tuple[int, FileBytes]]:
    """The layers of a NetParameter, one at a time: field number and bytes."""
    content = FileBytes(file, 0, os.fstat(file.fileno()).st_size)
    if not len(content):
        raise WireError("it is empty")
    for part in walk(content):
        if part.number == NET_NAME and part.wire != LENGTH:
            raise WireError("its first field is that of a solver state or a mean")
        if part.number in (NET_LAYER, NET_V1_LAYER) and part.wire == LENGTH:
            yield part.number, content.part(part.start, part.stop)


def _layer(number: int, content: FileBytes) -> _Layer:
    if number == NET_LAYER:
        return _named(content, LAYER_NAME, LAYER_BLOBS)
    for part in walk(content):
        if part.number == V1_INNER and part.wire == LENGTH:
            return _named(content.part(part.start, part.stop), V0_NAME, V0_BLOBS)
    return _named(content, V1_NAME, V1_BLOBS)


def _named(content: FileBytes, name_number: int, blobs_number: int) -> _Layer:
    name, blobs = "", []
    for part in walk(content):
        if part.wire != LENGTH:
            continue
        if part.number == name_number:
            name = content.read(part.start, part.stop).decode("utf-8", "replace")
        elif part.number == blobs_number:
            blobs.append((part.start, part.stop))
    return _Layer(content, name, blobs)


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
