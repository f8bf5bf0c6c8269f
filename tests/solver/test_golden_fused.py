"""Golden solver runs end where Caffe ended also where their small nets are updated by the fused pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netc.backends.cpu import update
from tests.solver.golden_case import CASES, assert_close, load
from tests.solver.test_golden import assert_parameters, make_solver

pytest.importorskip("numba", reason="the fused update is compiled by numba (netc[cpu])")

# Of every rule its clipping, accumulation, multipliers and shared parameters; policies are not the update's.
UPDATES = [name for name in CASES if "policy" not in name]


@pytest.mark.parametrize("name", UPDATES)
def test_training_with_the_fused_update_ends_where_caffe_ends(
    solvers_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(update, "SMALLEST", 1)
    case = load(name)
    solver = make_solver(solvers_folder, case, str(case["init_weights"]))
    assert isinstance(solver._updater._fast, update.FusedUpdate)
    losses = []
    for _ in range(int(case["iters"])):
        solver.step(1)
        losses.append(solver.loss)
    assert_close(np.array(losses), case["loss"], "loss")
    assert_parameters(solver, case, "final")
