"""Every golden solver run ends on the device where Caffe ended, also from its snapshots."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.emulator import EmulatedDevice
from netc.solver import Solver
from tests.solver.golden_case import CASES, CASES_WITH_SNAPSHOTS, GOLDEN, assert_close, load, parameters

pytestmark = pytest.mark.cuda


@pytest.fixture
def backend(fast: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> Iterator[CudaBackend]:
    """Where a test's solvers train; they are closed in the end."""
    made, solvers = CudaBackend(fast), list[Solver]()
    make_nets = Solver._make_nets

    def remember(self: Solver, seed: int) -> None:
        make_nets(self, seed)
        solvers.append(self)

    monkeypatch.setattr(Solver, "_make_nets", remember)
    yield made
    for solver in solvers:
        solver.close()
    made.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the cases' folder as the working folder."""
    unused = shutil.ignore_patterns("*.npz")
    shutil.copytree(GOLDEN / "solvers", tmp_path / "solvers", ignore=unused)
    monkeypatch.chdir(tmp_path / "solvers")
    return tmp_path / "solvers"


def make_solver(backend: CudaBackend, folder: Path, case: dict[str, Any], **options: Any) -> Solver:
    (folder / "solver.prototxt").write_text(str(case["solver"]))
    return Solver("solver.prototxt", backend=backend, **options)


def assert_parameters(solver: Solver, case: dict[str, Any], moment: str) -> None:
    for (layer, index), array in parameters(case, moment).items():
        assert_close(solver.net.params[layer][index].data, array, f"{moment} {layer}/{index}")


@pytest.mark.parametrize("name", CASES)
def test_training_ends_where_caffe_ends(backend: CudaBackend, folder: Path, name: str) -> None:
    case = load(name)
    solver = make_solver(backend, folder, case, weights=str(case["init_weights"]))
    losses, rates = [], []
    for _ in range(int(case["iters"])):
        solver.step(1)
        losses.append(solver.loss)
        rates.append(solver.lr)
    np.testing.assert_array_equal(np.float32(rates), case["lr"])
    assert_close(np.array(losses), case["loss"], "loss")
    assert_parameters(solver, case, "final")


@pytest.mark.parametrize("name", CASES_WITH_SNAPSHOTS)
def test_resuming_from_caffes_snapshot_ends_where_caffe_ends(
    backend: CudaBackend, folder: Path, name: str
) -> None:
    case = load(name)
    solver = make_solver(backend, folder, case)
    solver.restore(f"{name}_iter_12.solverstate")
    assert_parameters(solver, case, "atsnap")
    losses = []
    while solver.iter < int(case["iters"]):
        solver.step(1)
        losses.append(solver.loss)
    assert_close(np.array(losses), case["resumed_loss"], "loss")
    assert_parameters(solver, case, "resumed")
