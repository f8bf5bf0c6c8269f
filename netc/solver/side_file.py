"""The side file of a snapshot, `<prefix>_iter_N.netcstate`: what Caffe forgets and an exact resume needs.

JSON with a checksum of its own. It names its companions with their sizes and SHA-256, so that a snapshot can
be told to be whole.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from netc.errors import NetcError
from netc.runtime import Net
from netc.solver.threads import thread_count

log = logging.getLogger(__name__)

FORMAT = "netc solver side file"
VERSION = 1
REMEDY = (
    "delete this file to resume as from a snapshot of Caffe's: without reader positions and random states"
)


@dataclass
class FileMark:
    """A file's name (without folder), size and SHA-256."""

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path, name: str | None = None) -> FileMark:
        """The mark of a file, under the name that it has or is going to have."""
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        return cls(name or path.name, path.stat().st_size, digest.hexdigest())

    def matches(self, path: Path) -> bool:
        """Whether a file holds what this mark was made of."""
        return path.stat().st_size == self.size and FileMark.of(path).sha256 == self.sha256


@dataclass
class NetState:
    """What a net carries from one pass to the next beside its parameters.

    sources: reader positions by layer; states: arrays by "layer/state" (dropout's counters, recurrent state).
    """

    sources: dict[str, Any] = field(default_factory=dict)
    states: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, net: Net) -> NetState:
        return cls(
            {str(layer): source.state() for layer, source in net.sources.items()},
            {name: np.array(net.backend.read(array)) for name, array in net.states.items()},
        )

    def restore(self, net: Net) -> list[str]:
        """Puts a net where this state was taken; returns the names of what does not fit, which stays."""
        sources = {str(layer): source for layer, source in net.sources.items()}
        misfits = sorted(self.sources.keys() ^ sources.keys())
        for name in self.sources.keys() & sources.keys():
            sources[name].restore(self.sources[name])
        for name in sorted(self.states.keys() | net.states.keys()):
            mine, theirs = self.states.get(name), net.states.get(name)
            if mine is None or theirs is None or mine.shape != theirs.shape:
                misfits.append(name)
            else:
                net.backend.write(theirs, mine)
        return misfits


@dataclass
class SideState:
    """Everything in a side file. nets: the train net's state, then the test nets'."""

    iteration: int
    seed: int
    threads: int
    loss_window: dict[str, Any]
    nets: list[NetState]
    files: list[FileMark]  # the weights, the solver state
    kernels: dict[str, str] = field(default_factory=dict)  # kernel choices by layer
    loss_scale: dict[str, Any] = field(default_factory=dict)  # of 16-bit training


def restore_nets(nets: Sequence[Net], side: SideState) -> None:
    """Puts nets where they were, and warns of all that may come out otherwise than in the snapshot's run."""
    if len(side.nets) != len(nets):
        log.warning("the snapshot's run had %d test nets, this one has %d", len(side.nets) - 1, len(nets) - 1)
    for net, state in zip(nets, side.nets, strict=False):
        misfits = state.restore(net)
        if misfits:
            log.warning("not found again in the snapshot or in net %r: %s", net.name, ", ".join(misfits))
    if side.threads != thread_count():
        log.warning(
            "the snapshot's run used %d threads, this one uses %d: results may differ in the last bits",
            side.threads,
            thread_count(),
        )


def write_side_state(path: Path, side: SideState) -> None:
    """Writes a side file, synced to disk; not atomic by itself, see `netc.solver.snapshot`."""
    content = asdict(side)
    for net in content["nets"]:
        net["states"] = {name: _pack(array) for name, array in net["states"].items()}
    with path.open("w", encoding="utf-8") as stream:
        stream.write(_text(content))
        stream.flush()
        os.fsync(stream.fileno())


def read_side_state(path: Path) -> SideState:
    """Reads a side file. Raises NetcError, naming the file, where it is damaged or of a later version."""
    try:
        text = path.read_text(encoding="utf-8")
        outer = json.loads(text)
        if outer["format"] != FORMAT:
            raise ValueError("another format")
        if outer["version"] > VERSION:
            raise NetcError(
                "this side file was written by a later netc",
                at=str(path),
                expected=f"version {VERSION} or below",
                found=outer["version"],
                remedy="update netc, or " + REMEDY,
            )
        content = outer["content"]
        if _checksum(content) != outer["sha256"]:
            raise ValueError("its checksum does not agree with its content")
        if (outer["version"] == VERSION and text != _text(content)) or outer["version"] < 1:
            raise ValueError("it is not as it was written")
        nets = [
            NetState(net["sources"], {name: _unpack(packed) for name, packed in net["states"].items()})
            for net in content.pop("nets")
        ]
        files = [FileMark(**mark) for mark in content.pop("files")]
        return SideState(**content, nets=nets, files=files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NetcError(
            "this side file cannot be read", at=str(path), found=str(error), remedy=REMEDY
        ) from error


def _text(content: Any) -> str:
    """The file, to the byte; reading compares, so that no damage is passed over."""
    outer = {"format": FORMAT, "version": VERSION, "sha256": _checksum(content), "content": content}
    return json.dumps(outer) + "\n"


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _pack(array: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def _unpack(packed: dict[str, Any]) -> np.ndarray:
    flat = np.frombuffer(base64.b64decode(packed["data"]), np.dtype(packed["dtype"]))
    return flat.reshape(packed["shape"]).copy()
