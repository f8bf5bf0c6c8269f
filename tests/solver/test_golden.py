"""Every golden solver run ends where Caffe ended (losses, rates, parameters), also from its snapshots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.solver import Solver
from tests.solver.golden_case import CASES, CASES_WITH_SNAPSHOTS, assert_close, load, parameters


def make_solver(folder: Path, case: dict[str, Any], weights: str | None = None) -> Solver:
    (folder / "solver.prototxt").write_text(str(case["solver"]))
    return Solver("solver.prototxt", weights=weights)


def assert_parameters(solver: Solver, case: dict[str, Any], moment: str) -> None:
    expected = parameters(case, moment)
    assert expected
    for (layer, index), array in expected.items():
        assert_close(solver.net.params[layer][index].data, array, f"{moment} {layer}/{index}")


def record_losses(solver: Solver) -> list[float]:
    """The loss of every forward pass from now on."""
    losses: list[float] = []
    forward_backward = solver.net.forward_backward

    def recording() -> float:
        losses.append(forward_backward())
        return losses[-1]

    solver.net.forward_backward = recording  # type: ignore[method-assign, assignment]
    return losses


@pytest.mark.parametrize("name", CASES)
def test_training_ends_where_caffe_ends(solvers_folder: Path, name: str) -> None:
    case = load(name)
    solver = make_solver(solvers_folder, case, str(case["init_weights"]))
    assert_parameters(solver, case, "init")
    every_loss, losses, rates = record_losses(solver), [], []
    for iteration in range(int(case["iters"])):
        solver.step(1)
        losses.append(solver.loss)
        rates.append(solver.lr)
        if iteration == 0:
            assert_parameters(solver, case, "after1")
    np.testing.assert_array_equal(np.float32(rates), case["lr"])
    assert_close(np.array(losses), case["loss"], "loss")
    assert_close(
        np.array(every_loss).reshape(case["loss_all"].shape), case["loss_all"], "loss of every batch"
    )
    assert_parameters(solver, case, "final")


@pytest.mark.parametrize("suffix", ["", ".h5"])
@pytest.mark.parametrize("name", CASES_WITH_SNAPSHOTS)
def test_resuming_from_caffes_snapshot_ends_where_caffe_ends(
    solvers_folder: Path, name: str, suffix: str
) -> None:
    case = load(name)
    moment = "resumed_h5" if suffix else "resumed"
    solver = make_solver(solvers_folder, case)
    solver.restore(f"{name}_iter_12.solverstate{suffix}")
    assert solver.iter == int(case["snap_iter"])
    assert_parameters(solver, case, "atsnap")
    losses = []
    while solver.iter < int(case["iters"]):
        solver.step(1)
        losses.append(solver.loss)
    assert_close(np.array(losses), case[f"{moment}_loss"], "loss")
    assert_parameters(solver, case, moment)


def test_there_are_as_many_cases_as_caffe_made() -> None:
    assert len(CASES) == 45
    assert len(CASES_WITH_SNAPSHOTS) == 3
