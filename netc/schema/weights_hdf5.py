"""Weights as HDF5: a group "data" (and "diff") of groups, one for each layer, of data sets 0, 1, ..."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from netc.errors import NetcError
from netc.schema.hdf5 import check_dataset, damage_named, numbered_datasets, probe_hdf5, read_dataset_into
from netc.schema.layer_keys import LayerKey, layer_keys


class StoredDataset:
    """A parameter in an open HDF5 file, whatever numbers it holds there."""

    def __init__(self, dataset: Any, path: str) -> None:
        check_dataset(dataset)
        self.shape: tuple[int, ...] = tuple(dataset.shape)
        self._dataset = dataset
        self._path = path

    def read_into(self, target: Any) -> None:
        with damage_named(self._path):
            read_dataset_into(self._dataset, target)


@contextmanager
def open_hdf5_weights(path: str | os.PathLike[str]) -> Iterator[dict[LayerKey, list[StoredDataset]]]:
    """The parameters of each layer that stores any, by layer name; they can be read within the block.

    A parameter that an earlier layer owns is not stored. Raises NetcError naming the file.
    """
    probe_hdf5(path)
    with damage_named(path):
        file = h5py.File(path, "r")
    try:
        with damage_named(path):
            weights = _datasets(file, os.fspath(path))
        yield weights
    finally:
        file.close()


def _datasets(file: Any, path: str) -> dict[LayerKey, list[StoredDataset]]:
    root = file.get("data")
    if not isinstance(root, h5py.Group):
        raise NetcError(
            "the HDF5 file holds no weights",
            at=path,
            expected="a group named data",
            found=", ".join(sorted(file)[:10]) or "nothing",
        )
    weights: dict[LayerKey, list[StoredDataset]] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Group):
            arrays = [StoredDataset(dataset, path) for dataset in numbered_datasets(item).values()]
            if arrays:
                weights[name] = arrays

    root.visititems(visit)
    return weights


def write_hdf5_weights(
    path: Path,
    definition: Any,
    weights: Mapping[LayerKey, Sequence[npt.ArrayLike]],
    diffs: Mapping[LayerKey, Sequence[npt.ArrayLike]] | None,
) -> None:
    """Writes a net's parameters, those that several layers share at the first alone."""
    keys = layer_keys(layer.name for layer in definition.layer)
    groups = {"data": weights} | ({"diff": diffs} if diffs is not None else {})
    owners = _owners(definition)
    layers = {layer.name for layer in definition.layer}
    with h5py.File(path, "w") as file:
        for title, arrays_by_layer in groups.items():
            root = file.create_group(title)
            for layer, key in zip(definition.layer, keys, strict=True):
                group = _layer_group(root, layer.name, layers)
                names = [spec.name for spec in layer.param]
                for index, array in enumerate(arrays_by_layer.get(key, ())):
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
