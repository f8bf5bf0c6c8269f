"""Weights files: the parameters of a net by layer, as `.caffemodel` or HDF5."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from netc.errors import NetcError
from netc.schema.atomic import replacing
from netc.schema.blobs import Array, blob_size
from netc.schema.file_format import HDF5_SUFFIXES, is_hdf5
from netc.schema.layer_keys import LayerKey, Namesake, layer_keys
from netc.schema.stored import StoredArray, read_array
from netc.schema.weights_binary import open_binary_weights, read_binary_weights, write_binary_weights
from netc.schema.wire import LARGEST_MESSAGE, LONGEST_HEADER

Weights = dict[LayerKey, list[Array]]


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """The parameters of each layer that has any, by layer: in file order, in HDF5 by name.

    What the file is decides how it is read, not its name. Of the layers only names and blobs are taken: forks
    give the other field numbers other meanings. Blobs of old files keep their four axes (see `same_shape`).
    In HDF5 a parameter that an earlier layer owns is not stored: the list holds those the layer owns itself.
    Raises NetcError naming the file.
    """
    if not is_hdf5(path):
        return read_binary_weights(path)
    from netc.schema.weights_hdf5 import open_hdf5_weights  # only now: it loads the HDF5 library

    with open_hdf5_weights(path) as weights:
        return {name: [read_array(stored) for stored in arrays] for name, arrays in weights.items()}


@contextmanager
def open_weights(path: str | os.PathLike[str]) -> Iterator[Mapping[LayerKey, Sequence[StoredArray]]]:
    """What `read_weights` gives, but with the values still in the file: their shapes can be checked first.

    Reading them one at a time into a net takes the memory of the net and of one more parameter (of HDF5: of
    a piece of one), however large the file is. Raises NetcError naming the file.
    """
    if not is_hdf5(path):
        with open_binary_weights(path) as weights:
            yield weights
        return
    from netc.schema.weights_hdf5 import open_hdf5_weights  # only now: it loads the HDF5 library

    with open_hdf5_weights(path) as datasets:
        yield datasets


def write_weights(
    path: str | os.PathLike[str],
    definition: Any,
    weights: Mapping[LayerKey, Sequence[npt.ArrayLike]],
    *,
    diffs: Mapping[LayerKey, Sequence[npt.ArrayLike]] | None = None,
    hdf5: bool | None = None,
) -> None:
    """Writes a net and its parameters, atomically.

    definition: the NetParameter of the net as it was built; weights: by layer, shared parameters at each
    layer that uses them; diffs: gradients, written beside them (snapshot_diff); hdf5: the format, by default
    HDF5 where the name ends in .h5.
    Raises NetcError where the file cannot be written, would pass protobuf's 2 GiB, or is HDF5 and should hold
    two layers of one name; nothing is written then.
    """
    unknown = set(weights) - set(layer_keys(layer.name for layer in definition.layer))
    if unknown:
        raise ValueError(f"the net has no layers {sorted(map(str, unknown))}")
    hdf5 = Path(path).suffix in HDF5_SUFFIXES if hdf5 is None else hdf5
    if hdf5:
        check_hdf5_names(weights, os.fspath(path))
    else:
        shapes = {name: [np.shape(array) for array in arrays] for name, arrays in weights.items()}
        check_binary_size(definition, shapes, diffs is not None, os.fspath(path))
    with replacing(path) as temporary:
        if hdf5:
            from netc.schema.weights_hdf5 import write_hdf5_weights  # only now: it loads the HDF5 library

            write_hdf5_weights(temporary, definition, weights, diffs)
        else:
            with open(temporary, "wb") as file:
                write_binary_weights(file, definition, weights, diffs)


def check_hdf5_names(layers: Iterable[LayerKey], path: str = "HDF5 weights") -> None:
    """Raises NetcError where two of the layers whose parameters are to be stored have one name."""
    for layer in layers:
        if isinstance(layer, Namesake):
            raise NetcError(
                f"{path} cannot hold two layers of one name, as in Caffe",
                layer=layer.name,
                expected="a name of its own for every layer with parameters",
                remedy="rename one, or write a .caffemodel (snapshot_format: BINARYPROTO in the solver)",
            )


def check_binary_size(
    definition: Any,
    shapes: Mapping[LayerKey, Sequence[Sequence[int]]],
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
