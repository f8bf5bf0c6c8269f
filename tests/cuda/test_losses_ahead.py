"""The host runs ahead of the device; the losses, and what hangs on them, are those of a host that waits."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.device import Device
from netc.backends.cuda.iteration.journal import ROWS
from netc.backends.loss_scale import LossScale
from netc.errors import NetcError
from netc.solver import Hook, Solver
from tests.cuda.counted import Counted
from tests.cuda.test_iteration import BODY, DATA, SCORES, make_solver

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

SMALL = """
layer { name: "data" type: "DummyData" top: "data" top: "target"
  dummy_data_param { shape { dim: 3 dim: 4 } shape { dim: 3 dim: 2 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "gaussian" std: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "target" top: "loss" }
"""
TWO_LOSSES = (
    SMALL
    + """
layer { name: "second" type: "SigmoidCrossEntropyLoss" bottom: "ip" bottom: "target" top: "second"
  loss_weight: 0.3 }
"""
)


class Asking(Hook):
    """Asks for the loss in every iteration."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_iteration(self, solver: Solver) -> None:
        self.losses.append(solver.loss)


class Noting(Hook):
    """Notes the iterations in which it hears of things."""

    def __init__(self) -> None:
        self.snapshots: list[int] = []
        self.last = 0

    def on_iteration(self, solver: Solver) -> None:
        self.last = solver.iter

    def on_snapshot(self, solver: Solver, files: Any) -> None:
        self.snapshots.append(solver.iter)


@pytest.mark.parametrize("net", [SMALL, TWO_LOSSES], ids=["a loss", "two"])
def test_losses_are_read_when_there_is_no_room_for_more(fast: Device, counted: Counted, net: str) -> None:
    count, text = 2 * ROWS + 5, "average_loss: 7"
    waiting = make_solver(CudaBackend(fast), net, text, hook := Asking())
    ahead = make_solver(CudaBackend(fast), net, text)
    waiting.step(count)
    assert counted.of(lambda: ahead.step(count))["_download"] == 3
    assert ahead._losses.state() == waiting._losses.state()
    assert (ahead.loss, ahead.smoothed_loss) == (hook.losses[-1], waiting.smoothed_loss)
    assert len(set(hook.losses)) > ROWS
    losses = []
    apart = make_solver(CudaBackend(fast), net, text)
    for _ in range(count):
        apart.step(1)
        losses.append(apart.loss)
    assert losses == hook.losses


def test_losses_stay_with_their_iterations_after_an_interrupt(
    fast: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted, plain = (make_solver(CudaBackend(fast), SMALL, "average_loss: 3") for _ in range(2))
    journal = interrupted._iteration._journal
    assert journal is not None

    def interrupt() -> np.ndarray:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(journal, "take", interrupt)
        with pytest.raises(KeyboardInterrupt):
            interrupted.step(4)
    plain.step(4)
    for solver in (interrupted, plain):
        solver.step(3)
    assert interrupted._losses.state() == plain._losses.state()


def test_a_display_shows_what_it_would_have_shown(fast: Device, caplog: pytest.LogCaptureFixture) -> None:
    lines = []
    for hooks in ([], [Asking()]):
        caplog.clear()
        solver = make_solver(CudaBackend(fast), TWO_LOSSES, "average_loss: 4 display: 5", *hooks)
        with caplog.at_level(logging.INFO, "netc.solver"):
            solver.step(12)
        lines.append([line.split("loss = ")[-1] for line in caplog.messages if "loss" in line])
    assert lines[0] == lines[1]
    assert len(lines[0]) == 9  # at each display the mean and two outputs


def test_a_loss_of_many_numbers_is_read_at_once(fast: Device, counted: Counted) -> None:
    """Its sum is made on the host, as on the CPU."""
    weighted = SMALL.replace('top: "ip"', 'top: "ip" loss_weight: 0.01', 1)
    solver = make_solver(CudaBackend(fast), weighted)
    solver.step(2)
    assert counted.of(lambda: solver.step(3))["_download"] == 6


def write_hdf5(labels: list[float], floats: np.ndarray) -> str:
    """A layer that reads batches of one item each."""
    with h5py.File("data.h5", "w") as file:
        file["data"], file["label"] = floats, np.array(labels, np.float32)
    Path("list.txt").write_text("data.h5\n")
    return """layer { name: "data" type: "HDF5Data" top: "data" top: "label"
      hdf5_data_param { source: "list.txt" batch_size: 1 } }"""


def images(count: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((count, 2, 7, 6)).astype(np.float32)


def test_a_wrong_label_is_named_before_anything_is_saved(fast: Device, folder: Path) -> None:
    data = write_hdf5([0, 1, 2, 7, 1, 0, 0, 0, 0, 0], images(10))
    text = 'snapshot: 6 snapshot_prefix: "a"'
    solver = make_solver(CudaBackend(fast), data + BODY + SCORES, text, hook := Noting())
    with pytest.raises(NetcError, match="label 7 is not a class") as caught:
        solver.step(10)
    assert caught.value.layer == "loss (SoftmaxWithLoss)"
    assert caught.value.found == "7; 1 of 1 labels are out of range"
    assert (hook.snapshots, hook.last, list(Path().glob("a_iter*"))) == ([], 6, [])
    solver.settle()  # it has been said
    solver.close()


def test_wrong_labels_of_several_batches_are_counted_together(fast: Device, folder: Path) -> None:
    data = write_hdf5([0, 7, 8, 1, 0], images(5))
    solver = make_solver(CudaBackend(fast), data + BODY + SCORES)
    with pytest.raises(NetcError, match="is not a class") as caught:
        solver.step(4)
    assert "2 labels of several batches are out of range" in str(caught.value.found)
    solver.close()


def test_a_loss_that_is_lost_is_said_of_its_own_iteration(
    fast: Device, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    floats = images(10)
    floats[4] = np.nan
    data = write_hdf5([0, 1, 2, 0, 1, 2, 0, 1, 2, 0], floats)
    solver = make_solver(CudaBackend(fast), data + BODY + SCORES)
    solver.step(9)
    (line,) = [line for line in caplog.messages if "will not recover" in line]
    assert line.startswith("Iteration 4: the loss is nan")
    solver.close()


def test_the_device_scales_the_loss_as_the_host_says(fast: Device, caplog: pytest.LogCaptureFixture) -> None:
    """From a scale that is far too large it comes down in as many iterations as it takes, unasked."""
    solver = make_solver(CudaBackend(fast, "fp16"), DATA + BODY + SCORES, "momentum: 0.9")
    solver._iteration.begin_scaling(LossScale(2.0**26))
    before = solver.backend.read(solver.net.parameters.data).copy()
    with caplog.at_level(logging.INFO, "netc.solver"):
        solver.step(40)
    overflows = [line for line in caplog.messages if "the gradients overflowed" in line]
    assert 3 < len(overflows) < 40
    assert overflows[2] == f"Iteration 2: the gradients overflowed; no update, loss scale now {2.0**23:g}"
    scale = solver._iteration.loss_scale
    assert scale == LossScale(2.0 ** (26 - len(overflows)), 40 - len(overflows))
    assert solver.backend.read(solver.net.loss_scale).tolist() == [scale.value, scale.held]
    assert not np.array_equal(solver.backend.read(solver.net.parameters.data), before)
    solver.close()


def test_a_run_goes_on_from_a_scale_in_the_midst_of_overflows(fast: Device, folder: Path) -> None:
    text = 'momentum: 0.9 snapshot_prefix: "a"'

    def start() -> Solver:
        return make_solver(CudaBackend(fast, "fp16"), DATA + BODY + SCORES, text)

    whole, first, second = start(), start(), start()
    for solver in (whole, first):
        solver._iteration.begin_scaling(LossScale(2.0**26))
    whole.step(30)
    first.step(5)
    second.restore(first.snapshot())
    assert second._iteration.loss_scale == first._iteration.loss_scale
    second.step(25)
    assert second._iteration.loss_scale == whole._iteration.loss_scale
    one, other = (solver.backend.read(solver.net.parameters.data) for solver in (whole, second))
    np.testing.assert_array_equal(one, other)


def test_where_all_blobs_are_kept_nobody_scales_the_loss_and_that_is_said(
    fast: Device, caplog: pytest.LogCaptureFixture
) -> None:
    warning = "gradients below 6e-8 are lost in fp16: where all blobs are kept, the loss is not scaled"
    make_solver(CudaBackend(fast, "fp16"), SMALL)
    make_solver(CudaBackend(fast, "bf16"), SMALL, keep="all")
    assert warning not in caplog.messages
    solver = make_solver(CudaBackend(fast, "fp16"), SMALL, keep="all")
    assert warning in caplog.messages
    assert solver._iteration.loss_scale is None
