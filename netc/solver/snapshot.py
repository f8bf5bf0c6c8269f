"""Snapshots: three files, written so that a kill at any moment is harmless, and found again when resuming.

`<prefix>_iter_N.caffemodel` (or `.caffemodel.h5`) holds the weights, `<prefix>_iter_N.netcstate` what Caffe
forgets, `<prefix>_iter_N.solverstate` (or `.solverstate.h5`) the history. All three are written and synced
under temporary names first; then they are renamed, the solver state last. So where there is a solver state,
its companions are there.
"""

from __future__ import annotations

import logging
import os
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.schema.atomic import sync_folder, write_error
from netc.schema.layer_keys import LayerKey
from netc.schema.state import SolverState, read_state, write_state
from netc.schema.stored import StoredArray, read_array
from netc.schema.weights import open_weights, write_weights
from netc.solver.report import say
from netc.solver.side_file import REMEDY, FileMark, SideState, read_side_state, write_side_state

log = logging.getLogger(__name__)

SUFFIXES = {  # by snapshot_format: of the weights, of the solver state
    pb.SolverParameter.BINARYPROTO: (".caffemodel", ".solverstate"),
    pb.SolverParameter.HDF5: (".caffemodel.h5", ".solverstate.h5"),
}
STATE_NAME = re.compile(r"_iter_(\d+)\.solverstate(?:\.h5)?")


@dataclass(frozen=True)
class SnapshotNames:
    """The names of one snapshot's files."""

    weights: str
    side: str
    state: str

    @classmethod
    def at(cls, prefix: str, iteration: int, snapshot_format: int) -> SnapshotNames:
        """The names that a run with this prefix gives its snapshot of an iteration."""
        stem = f"{prefix}_iter_{iteration}"
        weights, state = SUFFIXES[snapshot_format]
        return cls(stem + weights, stem + ".netcstate", stem + state)


def side_path(state_path: str | os.PathLike[str]) -> Path:
    """The side file that belongs to a solver state."""
    path = Path(state_path)
    return path.with_name(re.sub(r"\.solverstate(\.h5)?$", "", path.name) + ".netcstate")


@dataclass(frozen=True)
class Snapshot:
    """What a resume needs: a solver state, the weights that it names, and the side file if there is one.

    The weights are still in their file, which stays open as long as this object lives.
    """

    path: str
    state: SolverState
    weights_path: str | None
    weights: Mapping[LayerKey, Sequence[StoredArray]]
    side: SideState | None


def write_snapshot(
    names: SnapshotNames,
    definition: pb.NetParameter,
    weights: Mapping[LayerKey, Sequence[np.ndarray]],
    state: SolverState,
    side: Callable[[list[FileMark]], SideState],
    diffs: Mapping[LayerKey, Sequence[np.ndarray]] | None = None,
) -> None:
    """Writes a snapshot.

    side: makes the side file's content from the marks of the other two files; diffs: gradients to store with
    the weights.

    Raises NetcError where a file cannot be written; no file of this name has appeared or changed then.
    """
    final = [Path(name) for name in (names.weights, names.side, names.state)]
    staged = new_weights, new_side, new_state = [_staged(path) for path in final]
    try:
        words = "HDF5" if names.state.endswith(".h5") else "binary proto"
        say("solver.cpp:464", "Snapshotting to %s file %s", words, names.weights)
        write_weights(new_weights, definition, weights, diffs=diffs)
        say("sgd_solver.cpp:284", "Snapshotting solver state to %s file %s", words, names.state)
        write_state(new_state, state)
        marks = [FileMark.of(new_weights, final[0].name), FileMark.of(new_state, final[2].name)]
        write_side_state(new_side, side(marks))
        for new, path in zip(staged, final, strict=True):
            os.replace(new, path)
            sync_folder(path.parent)
    except OSError as error:
        raise write_error(names.state, error) from error
    finally:
        for path in staged:
            with suppress(OSError):
                path.unlink()


def _staged(path: Path) -> Path:
    """Where a file is written first: one name for all runs, so that what a killed one left is overwritten."""
    return path.with_name(f".{path.stem}.new{path.suffix}")


def read_snapshot(path: str | os.PathLike[str]) -> Snapshot:
    """Reads a snapshot by its solver state.

    Raises NetcError where a file of it is missing or damaged, or where the side file was written with other
    files than the ones that lie beside it.
    """
    path = os.fspath(path)
    state = read_state(path)
    weights_path = _find_weights(path, state.learned_net)
    side = _read_side(path, weights_path)
    with ExitStack() as stack:
        weights: Mapping[LayerKey, Sequence[StoredArray]] = {}
        if weights_path is not None:
            weights = stack.enter_context(open_weights(weights_path))
            if side is None:
                _check_readable(weights)
        snapshot = Snapshot(path, state, weights_path, weights, side)
        weakref.finalize(snapshot, stack.pop_all().close)
    return snapshot


def _check_readable(weights: Mapping[LayerKey, Sequence[StoredArray]]) -> None:
    """Raises NetcError where weights for which no side file vouches are damaged; reads one after another."""
    for arrays in weights.values():
        for array in arrays:
            read_array(array)


def _find_weights(path: str, learned_net: str) -> str | None:
    """`learned_net` is relative to the working directory of the run that wrote it; or it lies beside."""
    if not learned_net:
        return None
    beside = os.path.join(os.path.dirname(path), os.path.basename(learned_net))
    for candidate in (learned_net, beside):
        if os.path.isfile(candidate):
            if candidate != learned_net:
                log.info(
                    "%s is not there: taking %s, which lies beside the solver state", learned_net, beside
                )
            return candidate
    raise NetcError(
        f"the weights {learned_net}, which this solver state names, are not there",
        at=path,
        expected=learned_net if learned_net == beside else f"{learned_net} or {beside}",
        remedy="put them beside the solver state, or resume in the folder in which the snapshot was written",
    )


def _read_side(path: str, weights_path: str | None) -> SideState | None:
    """The side file of a solver state, None where there is none for it."""
    place = side_path(path)
    if not place.exists():
        return None
    side = read_side_state(place)
    weights_mark, state_mark = side.files
    if state_mark.name != os.path.basename(path):
        log.info("%s belongs to %s, not to this solver state", place, state_mark.name)
        return None
    for mark, companion in ((state_mark, path), (weights_mark, weights_path)):
        if companion is not None and not mark.matches(Path(companion)):
            raise NetcError(
                f"{companion} is not the file that was written with {place.name}",
                at=str(place),
                expected=f"{mark.size} bytes, SHA-256 {mark.sha256[:16]}...",
                found=f"{os.path.getsize(companion)} bytes, "
                f"SHA-256 {FileMark.of(Path(companion)).sha256[:16]}...",
                remedy="take an earlier snapshot; if you replaced the file yourself, " + REMEDY,
            )
    return side


def latest(prefix: str | os.PathLike[str]) -> str | None:
    """The solver state of the newest whole snapshot with this prefix, None where there is none.

    Snapshots that are damaged or incomplete are named in the log and passed over.
    """
    prefix = os.fspath(prefix)
    for path in _states(prefix):
        try:
            _check_whole(path)
        except NetcError as error:
            log.warning("%s is not a whole snapshot, looking for an earlier one: %s", path, error)
            continue
        return path
    return None


def _check_whole(path: str) -> None:
    """Raises NetcError unless all files of a snapshot are there and undamaged."""
    weights_path = _find_weights(path, read_state(path).learned_net)
    if _read_side(path, weights_path) is None and weights_path is not None:
        with open_weights(weights_path) as weights:
            _check_readable(weights)


def _states(prefix: str) -> list[str]:
    """The solver states with this prefix, of the highest iteration first; of equal ones, the last written."""
    folder, stem = os.path.split(prefix)
    found = []
    try:
        entries = list(os.scandir(folder or "."))
    except OSError:
        return []
    for entry in entries:
        match = STATE_NAME.fullmatch(entry.name[len(stem) :]) if entry.name.startswith(stem) else None
        if match and entry.is_file():
            found.append((int(match[1]), entry.stat().st_mtime_ns, os.path.join(folder, entry.name)))
    return [path for _, _, path in sorted(found, reverse=True)]


def check_writable(prefix: str) -> None:
    """Raises NetcError, before hours of training, where snapshots of this prefix could not be written."""
    if not prefix:
        raise NetcError(
            "the solver takes snapshots but has no snapshot_prefix",
            remedy='add snapshot_prefix: "snapshots/mynet", or snapshot: 0 and snapshot_after_train: false',
        )
    folder = os.path.dirname(prefix) or "."
    if not os.path.isdir(folder):
        raise NetcError(
            f"snapshots cannot be written: there is no folder {folder}",
            found=f'snapshot_prefix: "{prefix}"',
            remedy=f"make it (mkdir -p {folder}), or change snapshot_prefix",
        )
    probe = f"{prefix}_iter_0.probe-{os.getpid()}"
    try:
        with open(probe, "wb"):
            pass
        os.unlink(probe)
    except OSError as error:
        raise NetcError(
            f"snapshots cannot be written into {folder}: {error.strerror}",
            found=f'snapshot_prefix: "{prefix}"',
            remedy="check the folder's permissions, or change snapshot_prefix",
        ) from error
