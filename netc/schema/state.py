"""Solver states: what a solver continues from, as `.solverstate` or HDF5."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from netc.errors import NetcError
from netc.schema.atomic import replacing
from netc.schema.blobs import Array, blob_size, parse_blob, write_blob
from netc.schema.hdf5 import (
    HDF5_SUFFIXES,
    is_hdf5,
    numbered_datasets,
    open_hdf5,
    read_dataset,
    read_float_dataset,
)
from netc.schema.reading import read_bytes
from netc.schema.wire import (
    LARGEST_MESSAGE,
    LENGTH,
    LONGEST_HEADER,
    VARINT,
    WireError,
    length_header,
    signed,
    varint_field,
    walk,
)

# Field numbers of SolverState.
ITERATION, LEARNED_NET, HISTORY, CURRENT_STEP = 1, 2, 3, 4
LONGEST_PATH = 1 << 16


@dataclass
class SolverState:
    """What a solver continues from.

    iteration: updates made; learned_net: the weights file, as written, relative to the working directory of
    the run; history: the update rule's arrays, one for each learnable parameter, then the second ones of Adam
    and AdaDelta; current_step: how many steps of the rate have passed (step, multistep).
    """

    iteration: int = 0
    learned_net: str = ""
    history: list[Array] = field(default_factory=list)
    current_step: int = 0


def read_state(path: str | os.PathLike[str]) -> SolverState:
    """The solver state in a file, read as what its content shows it is. Raises NetcError naming the file."""
    state = _read_hdf5(path) if is_hdf5(path) else _read_binary(path)
    if not (0 <= state.iteration < 2**31 and 0 <= state.current_step < 2**31):
        raise NetcError(
            "the solver state is damaged",
            at=os.fspath(path),
            expected="an iteration and a step that are not negative",
            found=f"iteration {state.iteration}, step {state.current_step}",
            remedy="resume from another snapshot",
        )
    return state


def write_state(path: str | os.PathLike[str], state: SolverState, *, hdf5: bool | None = None) -> None:
    """Writes a solver state, atomically. hdf5: the format, by default HDF5 where the name ends in .h5.

    Raises NetcError where the file cannot be written, or would pass protobuf's 2 GiB.
    """
    hdf5 = Path(path).suffix in HDF5_SUFFIXES if hdf5 is None else hdf5
    if not hdf5:
        check_state_size([array.shape for array in state.history], os.fspath(path))
    with replacing(path) as temporary:
        if hdf5:
            _write_hdf5(temporary, state)
        else:
            with open(temporary, "wb") as file:
                _write_binary(file, state)


def check_state_size(shapes: Iterable[Sequence[int]], path: str = "the .solverstate") -> None:
    """Raises NetcError if a `.solverstate` with a history of these shapes would pass protobuf's 2 GiB."""
    size = LONGEST_PATH + sum(blob_size(shape) + LONGEST_HEADER for shape in shapes)
    if size > LARGEST_MESSAGE:
        raise NetcError(
            f"{path} would be too large for protobuf",
            expected=f"at most {LARGEST_MESSAGE:,} bytes",
            found=f"{size:,} bytes",
            remedy="put snapshot_format: HDF5 into the solver",
        )


def _read_binary(path: str | os.PathLike[str]) -> SolverState:
    content = memoryview(read_bytes(path))
    state = SolverState()
    try:
        if not content:
            raise WireError("it is empty")
        for part in walk(content):
            if part.number == ITERATION and part.wire != VARINT:
                raise WireError("its first field is that of a net")
            if part.number == ITERATION:
                state.iteration = signed(part.value)
            elif part.number == CURRENT_STEP and part.wire == VARINT:
                state.current_step = signed(part.value)
            elif part.number == LEARNED_NET and part.wire == LENGTH:
                state.learned_net = bytes(content[part.start : part.stop]).decode("utf-8")
            elif part.number == HISTORY and part.wire == LENGTH:
                state.history.append(parse_blob(content, part.start, part.stop))
    except (WireError, UnicodeDecodeError, MemoryError) as error:
        raise NetcError(
            f"the file is no whole .solverstate: {error}",
            at=os.fspath(path),
            expected="the SolverState of a snapshot",
            remedy="it is cut short, damaged or of another kind: resume from another snapshot",
        ) from error
    return state


def _write_binary(file: BinaryIO, state: SolverState) -> None:
    name = state.learned_net.encode("utf-8")
    file.write(varint_field(ITERATION, state.iteration))
    file.write(length_header(LEARNED_NET, len(name)) + name)
    for array in state.history:
        file.write(length_header(HISTORY, blob_size(array.shape)))
        write_blob(file, array)
    file.write(varint_field(CURRENT_STEP, state.current_step))


# HDF5: data sets iter, learned_net and current_step, and a group history with data sets 0, 1, ...


def _read_hdf5(path: str | os.PathLike[str]) -> SolverState:
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


def _write_hdf5(path: Path, state: SolverState) -> None:
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
