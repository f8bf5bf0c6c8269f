"""The training loop: what happens when, on request, and where numbers go wrong."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import OutputValue
from netc.solver import Hook, Solver
from netc.solver.divergence import Divergence
from netc.solver.loss_window import LossWindow
from tests.solver.small_run import make_small_run


class Diary(Hook):
    """Notes every call with the iteration it came at."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.results: list[Sequence[OutputValue]] = []
        self.files: list[Sequence[str]] = []

    def on_start(self, solver: Solver) -> None:
        self.calls.append(("start", solver.iter))

    def on_iteration(self, solver: Solver) -> None:
        self.calls.append(("iteration", solver.iter))

    def on_display(self, solver: Solver) -> None:
        self.calls.append(("display", solver.iter))

    def on_test(self, solver: Solver, test_net_index: int, results: Sequence[OutputValue]) -> None:
        self.calls.append(("test", solver.iter))
        self.results.append(results)

    def on_snapshot(self, solver: Solver, files: Sequence[str]) -> None:
        self.calls.append(("snapshot", solver.iter))
        self.files.append(files)

    def on_end(self, solver: Solver) -> None:
        self.calls.append(("end", solver.iter))

    def at(self, what: str) -> list[int]:
        return [iteration for call, iteration in self.calls if call == what]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_everything_happens_when_it_is_due(folder: Path) -> None:
    diary = Diary()
    solver = Solver(make_small_run(folder, max_iter=9, snapshot=4), hooks=[diary])
    solver.solve()
    assert diary.at("start") == [0]
    assert diary.at("iteration") == list(range(1, 10))
    assert diary.at("display") == list(range(9))
    assert diary.at("test") == [0, 3, 6, 9]
    assert diary.at("snapshot") == [4, 8, 9]
    assert diary.at("end") == [9]
    assert diary.files[0] == ("snap_iter_4.caffemodel", "snap_iter_4.netcstate", "snap_iter_4.solverstate")
    assert all(Path(name).is_file() for files in diary.files for name in files)
    assert not solver.stopped


def test_no_second_snapshot_after_training_where_one_was_just_taken(folder: Path) -> None:
    diary = Diary()
    Solver(make_small_run(folder, max_iter=8, snapshot=4), hooks=[diary]).solve()
    assert diary.at("snapshot") == [4, 8]


def test_test_results_are_means_over_test_iter_batches(folder: Path) -> None:
    solver = Solver(make_small_run(folder), hooks=[diary := Diary()])
    values: list[float] = []
    net = solver.test_nets[0]
    forward = net.forward

    def recording() -> float:
        loss = forward()
        values.append(float(next(v for v in net.output_values() if v.name == "accuracy").data))
        return loss

    net.forward = recording  # type: ignore[method-assign, assignment]
    solver.test_all()
    assert len(values) == 2
    mean = next(v for v in diary.results[0] if v.name == "accuracy")
    assert float(mean.data) == pytest.approx(np.mean(values))


def test_no_test_iter_makes_a_test_net_that_nobody_runs(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    solver = Solver(make_small_run(folder), hooks=[diary := Diary()])
    solver.param.test_iter[:] = [0]
    solver.param.test_compute_loss = True
    before = solver.test_nets[0].sources["data"].state()
    with caplog.at_level(logging.INFO, "netc.solver"):
        solver.test_all()
    assert diary.results == [[]]
    assert caplog.messages == ["Iteration 0, Testing net (#0)"]  # and no loss, where Caffe prints nan
    assert solver.test_nets[0].sources["data"].state() == before


def test_test_nets_share_the_parameters_being_trained(folder: Path) -> None:
    solver = Solver(make_small_run(folder))
    solver.step(2)
    for name in ("conv", "ip"):
        assert np.shares_memory(solver.net.params[name][0].data, solver.test_nets[0].params[name][0].data)


def test_a_stop_finishes_the_iteration_and_takes_a_snapshot(folder: Path) -> None:
    class StopAtThree(Diary):
        def on_display(self, solver: Solver) -> None:
            super().on_display(solver)
            if solver.iter == 3:
                solver.request_stop()

    diary = StopAtThree()
    solver = Solver(make_small_run(folder, snapshot=100), hooks=[diary])
    solver.solve()
    assert solver.stopped
    assert diary.at("iteration")[-1] == 4
    assert diary.at("snapshot") == [4]
    assert diary.calls[-1] == ("end", 4)


def test_a_stop_during_a_test_interrupts_it(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    solver = Solver(make_small_run(folder, snapshot=100), hooks=[diary := Diary()])
    solver.step(3)
    before = solver.test_nets[0].sources["data"].state()
    solver.request_stop()
    with caplog.at_level(logging.INFO, "netc"):
        solver.solve()
    assert solver.stopped
    assert "Test interrupted." in caplog.messages
    assert "Optimization stopped early." in caplog.messages
    assert diary.at("snapshot") == [3]
    assert solver.test_nets[0].sources["data"].state() == before


def test_a_requested_snapshot_follows_the_iteration(folder: Path) -> None:
    solver = Solver(make_small_run(folder, snapshot=100), hooks=[diary := Diary()])
    solver.step(1)
    solver.request_snapshot()
    solver.step(3)
    assert diary.at("snapshot") == [2]


def test_on_end_is_called_when_training_fails(folder: Path) -> None:
    class Failing(Diary):
        def on_iteration(self, solver: Solver) -> None:
            raise NetcError("enough")

    diary = Failing()
    solver = Solver(make_small_run(folder), hooks=[diary])
    with pytest.raises(NetcError, match="enough"):
        solver.solve()
    assert diary.at("end") == [1]


def test_parameters_that_are_no_numbers_are_warned_of_where_the_loss_hides_them(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    solver = Solver(make_small_run(folder))
    divergence = Divergence(base_lr=0.1)
    divergence.look_at_parameters(solver.net, 1)
    assert not caplog.records
    solver.net.params["ip"][0].data[0, 0] = math.nan
    for iteration in (2, 3):
        divergence.look_at_parameters(solver.net, iteration)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert ["parameters are no longer numbers" in record.getMessage() for record in warnings] == [True]


def test_a_loss_that_is_no_number_is_warned_of_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    solver = Solver(make_small_run(folder))
    solver.net.params["ip"][1].data[...] = math.nan
    solver.step(3)
    warnings = [record for record in caplog.records if "will not recover" in record.getMessage()]
    assert len(warnings) == 1
    assert "Iteration 0: the loss is nan" in warnings[0].getMessage()
    assert "clip_gradients" in warnings[0].getMessage()
    assert solver.iter == 3


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([2.3, 87.3365, 87.33655, 87.3365], 2),
        ([2.3, 87.3365, 87.2, 87.3365], None),
        ([87.3, 87.35, 87.3], None),
        ([87.3365, math.inf], 1),
    ],
)
def test_a_loss_of_probabilities_of_zero_is_warned_of_when_it_comes_again(
    losses: list[float], said: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    divergence = Divergence(base_lr=0.1)
    for iteration, loss in enumerate(losses):
        divergence.look_at_loss(loss, iteration)
    assert [message.split(":")[0] for message in caplog.messages] == (
        [] if said is None else [f"Iteration {said}"]
    )


def test_a_net_whose_classes_are_all_wrong_is_warned_of(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_small_run(folder)
    (folder / "train.txt").write_text("train_0.png 0\n")
    solver = Solver(path)
    solver.net.params["ip"][1].data[...] = [0, 1e4, 1e4]
    solver.step(3)
    (warning,) = [m for m in caplog.messages if "will not recover" in m]
    assert "Iteration 1: the loss is 87.3365, every label's probability being 0, and" in warning


def test_nothing_left_to_train_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make_small_run(folder, max_iter=4, snapshot=2)
    Solver(path).solve()
    again = Solver(path)
    again.restore("snap_iter_4.solverstate")
    again.solve()
    assert "Nothing left to train: this is iteration 4 of max_iter: 4" in caplog.messages


def test_debug_info_logs_every_layer_at_displayed_iterations_only(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_small_run(folder)
    path.write_text(path.read_text().replace("display: 1", "display: 2 debug_info: true"))
    solver = Solver(path)
    with caplog.at_level(logging.INFO, "netc"):
        solver.step(2)
    lines = [m for m in caplog.messages if m.startswith("    [Forward] Layer conv, top blob conv data: ")]
    assert len(lines) == 1


def test_solver_mode_gpu_warns_and_trains(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make_small_run(folder)
    path.write_text(path.read_text().replace("solver_mode: CPU", "solver_mode: GPU"))
    solver = Solver(path)
    solver.step(1)
    assert [
        r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "GPU" in r.getMessage()
    ] == ["solver_mode is GPU, but there is no GPU to run on: training on the CPU"]


def test_a_run_without_random_seed_logs_the_one_it_drew(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_small_run(folder, random_seed=-1)
    with caplog.at_level(logging.INFO, "netc"):
        drawn = Solver(path)
    assert any(message.startswith(f"random_seed of this run: {drawn.seed} ") for message in caplog.messages)
    drawn.step(2)
    repeated = Solver(make_small_run(folder, random_seed=drawn.seed))
    repeated.step(2)
    np.testing.assert_array_equal(drawn.net.parameters.data, repeated.net.parameters.data)


def test_an_unknown_type_is_refused_with_the_nearest_one(folder: Path) -> None:
    definition = pb.SolverParameter(
        net="net.prototxt", type="Adm", base_lr=1, lr_policy="fixed", snapshot_after_train=False
    )
    make_small_run(folder)
    with pytest.raises(NetcError, match="unknown solver type 'Adm'") as caught:
        Solver(definition)
    assert "Adam" in str(caught.value.remedy)


def test_model_replaces_the_solvers_net(folder: Path) -> None:
    path = make_small_run(folder)
    text = (folder / "net.prototxt").read_text().replace('name: "small"', 'name: "other"')
    (folder / "other.prototxt").write_text(text)
    solver = Solver(path, model="other.prototxt")
    assert solver.net.name == "other"
    assert [net.name for net in solver.test_nets] == ["other"]


@pytest.mark.parametrize(
    ("losses", "size", "expected"),
    [
        ([4, 2, 6], 1, [4, 2, 6]),
        ([4, 2, 6, 8], 3, [4, 3, 4, 16 / 3]),
        ([3, 3, 9, 3, 3], 2, [3, 3, 6, 6, 3]),
    ],
)
def test_the_loss_is_averaged_over_a_window(losses: list[float], size: int, expected: list[float]) -> None:
    window = LossWindow(size)
    assert [window.add(loss) for loss in losses] == pytest.approx(expected)


def test_a_loss_window_goes_on_from_its_state() -> None:
    whole, first = LossWindow(3), LossWindow(3)
    losses = [5.0, 1.5, 2.25, 7.125, 0.1, 0.7]
    for loss in losses[:4]:
        whole.add(loss)
        first.add(loss)
    second = LossWindow.of_state(first.state())
    assert [whole.add(loss) for loss in losses[4:]] == [second.add(loss) for loss in losses[4:]]
