"""Solver states as HDF5: data sets iter, learned_net and current_step, and a group history of data sets
0, 1, ..."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from netc.errors import NetcError
from netc.schema.hdf5 import numbered_datasets, open_hdf5, read_dataset, read_float_dataset
from netc.schema.solver_state import LONGEST_PATH, SolverState


def read_hdf5_state(path: str | os.PathLike[str]) -> SolverState:
    """The state in a file. Raises NetcError naming the file."""
    with open_hdf5(path) as file:
        if not {"iter", "history"} <= set(file):
            raise NetcError(
                "the HDF5 file holds no solver state",
                at=os.fspath(path),
                expected="iter, learned_net, current_step and history",
                found=", ".join(sorted(file)[:10]) or "nothing",
            )
        history = numbered_datasets(file["history"])
        if list(history) != list(range(len(history))):
            raise ValueError("arrays of the history are missing")
        return SolverState(
            _read_integer(file["iter"]),
            _read_string(file.get("learned_net")),
            [read_float_dataset(dataset) for dataset in history.values()],
            _read_integer(file["current_step"]) if "current_step" in file else 0,
        )


def _read_integer(dataset: Any) -> int:
    values = read_dataset(dataset)
    if values.size != 1:
        raise ValueError(f"{dataset.name} holds {values.size} numbers in place of one")
    return int(values.reshape(-1)[0])


def _read_string(dataset: Any) -> str:
    """A string of fixed length, as Caffe writes it, or of any."""
    if dataset is None:
        return ""
    if not isinstance(dataset, h5py.Dataset) or dataset.shape != () or dataset.dtype.itemsize > LONGEST_PATH:
        raise ValueError("learned_net is no string")
    value = dataset[()]
    if not isinstance(value, bytes):
        raise ValueError("learned_net is no string")
    return value.split(b"\0")[0].decode("utf-8")


def write_hdf5_state(path: Path, state: SolverState) -> None:
    """Writes a state into a new file."""
    with h5py.File(path, "w") as file:
        file.create_dataset("iter", data=np.array([state.iteration], dtype=np.int32))
        _write_string(file, "learned_net", state.learned_net)
        file.create_dataset("current_step", data=np.array([state.current_step], dtype=np.int32))
        group = file.create_group("history")
        for index, array in enumerate(state.history):
            group.create_dataset(str(index), data=np.asarray(array, dtype=np.float32))


def _write_string(file: Any, name: str, text: str) -> None:
    """A string as Caffe reads it: of fixed length, ended by a NUL that the length counts."""
    content = text.encode("utf-8")
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(content) + 1)
    space = h5py.h5s.create(h5py.h5s.SCALAR)
    dataset = h5py.h5d.create(file.id, name.encode(), kind, space)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(content, dtype=f"S{len(content) + 1}"), kind)
