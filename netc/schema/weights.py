"""Weights files: the parameters of a net by layer, as `.caffemodel` or HDF5."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import numpy.typing as npt

from netc.errors import NetcError
from netc.schema.atomic import replacing
from netc.schema.blobs import Array, blob_size, parse_blob, write_blob
from netc.schema.hdf5 import HDF5_SUFFIXES, is_hdf5, numbered_datasets, open_hdf5, read_float_dataset
from netc.schema.reading import open_file
from netc.schema.wire import (
    LARGEST_MESSAGE,
    LENGTH,
    LONGEST_HEADER,
    WireError,
    length_header,
    read_header,
    walk,
)

log = logging.getLogger(__name__)

# Field numbers: of NetParameter, and of the name, blobs and inner layer of each generation of layers.
NET_NAME, NET_V1_LAYER, NET_LAYER = 1, 2, 100
LAYER_NAME, LAYER_BLOBS = 1, 7
V1_NAME, V1_BLOBS, V1_INNER = 4, 6, 1
V0_NAME, V0_BLOBS = 1, 50

Weights = dict[str, list[Array]]


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """The parameters of each layer that has any, by layer name: in file order, in HDF5 by name.

    What the file is decides how it is read, not its name. Of the layers only names and blobs are taken: forks
    give the other field numbers other meanings. Blobs of old files keep their four axes (see `same_shape`).
    In HDF5 a parameter that an earlier layer owns is not stored: the list holds those the layer owns itself.
    Raises NetcError naming the file.
    """
    return _read_hdf5(path) if is_hdf5(path) else _read_binary(path)


def write_weights(
    path: str | os.PathLike[str],
    definition: Any,
    weights: Mapping[str, Sequence[npt.ArrayLike]],
    *,
    diffs: Mapping[str, Sequence[npt.ArrayLike]] | None = None,
    hdf5: bool | None = None,
) -> None:
    """Writes a net and its parameters, atomically.

    definition: the NetParameter of the net as it was built; weights: by layer name, shared parameters at each
    layer that uses them; diffs: gradients, written beside them (snapshot_diff); hdf5: the format, by default
    HDF5 where the name ends in .h5.
    Raises NetcError where the file cannot be written, or would pass protobuf's 2 GiB.
    """
    unknown = set(weights) - {layer.name for layer in definition.layer}
    if unknown:
        raise ValueError(f"the net has no layers {sorted(unknown)}")
    hdf5 = Path(path).suffix in HDF5_SUFFIXES if hdf5 is None else hdf5
    if not hdf5:
        shapes = {name: [np.shape(array) for array in arrays] for name, arrays in weights.items()}
        check_binary_size(definition, shapes, diffs is not None, os.fspath(path))
    with replacing(path) as temporary:
        if hdf5:
            _write_hdf5(temporary, definition, weights, diffs)
        else:
            with open(temporary, "wb") as file:
                _write_binary(file, definition, weights, diffs)


def check_binary_size(
    definition: Any,
    shapes: Mapping[str, Sequence[Sequence[int]]],
    diff: bool = False,
    path: str = "the .caffemodel",
) -> None:
    """Raises NetcError if a `.caffemodel` of parameters of these shapes would pass protobuf's 2 GiB."""
    size = definition.ByteSize() + sum(
        blob_size(shape, diff) + LONGEST_HEADER for layer_shapes in shapes.values() for shape in layer_shapes
    )
    if size > LARGEST_MESSAGE:
        raise NetcError(
            f"{path} would be too large for protobuf",
            expected=f"at most {LARGEST_MESSAGE:,} bytes",
            found=f"{size:,} bytes",
            remedy="put snapshot_format: HDF5 into the solver, or name a file that ends in .h5",
        )


def same_shape(stored: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether a stored parameter fits: axes of 1 that old files put in front, to make four, do not count."""
    stored, wanted = tuple(stored), tuple(wanted)
    if len(stored) == 4 and len(wanted) < 4:
        wanted = (1,) * (4 - len(wanted)) + wanted
    return stored == wanted


# Binary


def _read_binary(path: str | os.PathLike[str]) -> Weights:
    weights: Weights = {}
    layers = 0
    try:
        with open_file(path) as file:
            for number, content in _top_level(file):
                layers += 1
                name, blobs = _layer_blobs(number, memoryview(content))
                if blobs:
                    weights[name] = blobs
    except (WireError, MemoryError) as error:
        raise NetcError(
            f"the file is no whole .caffemodel: {error or 'it claims more than the memory holds'}",
            at=os.fspath(path),
            expected="the NetParameter of a trained net",
            remedy="it is cut short, damaged or of another kind: use another copy",
        ) from error
    if not layers:
        raise NetcError(
            "the weights file has no layers", at=os.fspath(path), remedy="check that it is a .caffemodel"
        )
    return weights


def _top_level(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The layers of a NetParameter, one at a time: the field number and the bytes of each."""
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
            yield part.number, file.read(part.stop - part.start)
        at += part.stop


def _layer_blobs(number: int, layer: memoryview) -> tuple[str, list[Array]]:
    if number == NET_LAYER:
        return _named_blobs(layer, LAYER_NAME, LAYER_BLOBS)
    for part in walk(layer):
        if part.number == V1_INNER and part.wire == LENGTH:
            return _named_blobs(layer[part.start : part.stop], V0_NAME, V0_BLOBS)
    return _named_blobs(layer, V1_NAME, V1_BLOBS)


def _named_blobs(layer: memoryview, name_number: int, blobs_number: int) -> tuple[str, list[Array]]:
    name, blobs = "", []
    for part in walk(layer):
        if part.wire != LENGTH:
            continue
        if part.number == name_number:
            name = bytes(layer[part.start : part.stop]).decode("utf-8", "replace")
        elif part.number == blobs_number:
            blobs.append(parse_blob(layer, part.start, part.stop))
    return name, blobs


def _write_binary(
    file: BinaryIO,
    definition: Any,
    weights: Mapping[str, Sequence[npt.ArrayLike]],
    diffs: Mapping[str, Sequence[npt.ArrayLike]] | None,
) -> None:
    head = type(definition)()
    head.CopyFrom(definition)
    head.ClearField("layer")
    file.write(head.SerializePartialToString())
    for layer in definition.layer:
        before, after = _around_blobs(layer)
        arrays = list(weights.get(layer.name, ()))
        gradients = list(diffs.get(layer.name, ())) if diffs else [None] * len(arrays)
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


# HDF5: a group "data" (and "diff") holds a group for each layer, which holds data sets 0, 1, ...


def _read_hdf5(path: str | os.PathLike[str]) -> Weights:
    weights: Weights = {}
    with open_hdf5(path) as file:
        root = file.get("data")
        if not isinstance(root, h5py.Group):
            raise NetcError(
                "the HDF5 file holds no weights",
                at=os.fspath(path),
                expected="a group named data",
                found=", ".join(sorted(file)[:10]) or "nothing",
            )

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Group):
                arrays = [read_float_dataset(dataset) for dataset in numbered_datasets(item).values()]
                if arrays:
                    weights[name] = arrays

        root.visititems(visit)
    return weights


def _write_hdf5(
    path: Path,
    definition: Any,
    weights: Mapping[str, Sequence[npt.ArrayLike]],
    diffs: Mapping[str, Sequence[npt.ArrayLike]] | None,
) -> None:
    groups = {"data": weights} | ({"diff": diffs} if diffs is not None else {})
    owners = _owners(definition)
    layers = {layer.name for layer in definition.layer}
    with h5py.File(path, "w") as file:
        for title, arrays_by_layer in groups.items():
            root = file.create_group(title)
            for layer in definition.layer:
                group = _layer_group(root, layer.name, layers)
                names = [spec.name for spec in layer.param]
                for index, array in enumerate(arrays_by_layer.get(layer.name, ())):
                    name = names[index] if index < len(names) else ""
                    if not name or owners[name] == (layer.name, index):
                        group.create_dataset(str(index), data=np.asarray(array, dtype=np.float32))


def _owners(definition: Any) -> dict[str, tuple[str, int]]:
    """The (layer, index) that owns each parameter shared by name: the first, where alone Caffe stores it."""
    owners: dict[str, tuple[str, int]] = {}
    for layer in definition.layer:
        for index, spec in enumerate(layer.param):
            owners.setdefault(spec.name, (layer.name, index))
    return owners


def _layer_group(root: Any, name: str, layers: set[str]) -> Any:
    """The group of a layer. A slash in its name makes groups within groups, where Caffe refuses to write."""
    parts = name.split("/")
    # "a/0" is parameter 0 of a layer "a", and can be no layer beside it.
    is_parameter = any(part.isdigit() and "/".join(parts[:i]) in layers for i, part in enumerate(parts))
    if is_parameter or any(part in ("", ".", "..") for part in parts):
        remedy = "rename it, or write a .caffemodel instead"
        raise NetcError("HDF5 cannot hold a layer of this name", layer=name, remedy=remedy)
    return root.require_group(name)
