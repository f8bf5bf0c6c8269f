"""Training of nets that carry state from pass to pass, or change shapes within one, resumes to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netc.solver import Solver

NET = """
layer { name: "x" type: "DummyData" top: "x" top: "target" dummy_data_param {
  shape { dim: 4 dim: 3 dim: 2 } shape { dim: 4 dim: 3 dim: 5 } data_filler { type: "gaussian" } } }
layer { name: "keep" type: "DummyData" top: "keep" dummy_data_param { shape { dim: 4 }
  data_filler { type: "gaussian" } } }
layer { name: "some" type: "ReLU" bottom: "keep" top: "keep" }
layer { name: "cont" type: "DummyData" top: "cont" dummy_data_param { shape { dim: 4 dim: 3 }
  data_filler { value: 1 } } }
layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "h" recurrent_param { num_output: 5
  weight_filler { type: "uniform" min: -0.5 max: 0.5 } } }
layer { name: "chosen" type: "Filter" bottom: "h" bottom: "target" bottom: "keep" top: "h1" top: "target1" }
layer { name: "loss" type: "EuclideanLoss" bottom: "h1" bottom: "target1" top: "loss"
  propagate_down: true propagate_down: false }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" max_iter: 8 snapshot: 4
snapshot_prefix: "snap" random_seed: 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_resumed_run_ends_as_an_unbroken_one(folder: Path) -> None:
    whole = Solver("solver.prototxt")
    first = whole.net.parameters.data.copy()
    whole.solve()
    resumed = Solver("solver.prototxt")
    resumed.restore("snap_iter_4.solverstate")
    assert resumed.net.states["lstm/h"].any()
    resumed.solve()
    assert np.isfinite(whole.net.parameters.data).all()
    assert not np.array_equal(whole.net.parameters.data, first)
    np.testing.assert_array_equal(resumed.net.parameters.data, whole.net.parameters.data)
    np.testing.assert_array_equal(resumed.net.states["lstm/c"], whole.net.states["lstm/c"])
