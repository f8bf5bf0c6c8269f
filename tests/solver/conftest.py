"""Folders with what solvers need, and the solver texts of the tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from netc.solver import Solver

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture
def solvers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a copy of the golden solvers' nets, data, weights and snapshots."""
    for path in (GOLDEN / "solvers").iterdir():
        if path.suffix != ".npz":
            shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def train_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a copy of the folder in which Caffe wrote the golden training logs."""
    for pattern in ("snap_*", "train_*", "conv_data*", "conv_init*"):
        for path in (GOLDEN / "misc").glob(pattern):
            shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def closed_solvers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Closes every solver that a test made."""
    made: list[Solver] = []
    make_nets = Solver._make_nets

    def remember(self: Solver, seed: int) -> None:
        make_nets(self, seed)
        made.append(self)

    monkeypatch.setattr(Solver, "_make_nets", remember)
    yield
    for solver in made:
        solver.close()
