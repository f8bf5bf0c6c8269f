"""Solver states: what a solver continues from, as `.solverstate` or HDF5."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from netc.errors import NetcError
from netc.schema.atomic import replacing
from netc.schema.blobs import blob_size, parse_blobs, write_blob
from netc.schema.file_format import HDF5_SUFFIXES, is_hdf5
from netc.schema.reading import read_bytes
from netc.schema.solver_state import LONGEST_PATH, SolverState
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

__all__ = ["SolverState", "check_state_size", "read_state", "write_state"]

# Field numbers of SolverState.
ITERATION, LEARNED_NET, HISTORY, CURRENT_STEP = 1, 2, 3, 4


def read_state(path: str | os.PathLike[str]) -> SolverState:
    """The solver state in a file, read as what its content shows it is. Raises NetcError naming the file."""
    if is_hdf5(path):
        from netc.schema.state_hdf5 import read_hdf5_state  # only now: it loads the HDF5 library

        state = read_hdf5_state(path)
    else:
        state = _read_binary(path)
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
            from netc.schema.state_hdf5 import write_hdf5_state  # only now: it loads the HDF5 library

            write_hdf5_state(temporary, state)
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
    history: list[tuple[int, int]] = []
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
                history.append((part.start, part.stop))
        state.history = parse_blobs(content, history)
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
