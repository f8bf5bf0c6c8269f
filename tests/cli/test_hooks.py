"""What `netc train` hangs on the solver: the bar, the events and the stop after N, with a stand-in for it."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from netc.cli.hooks import EventHook, StopAfter, images_per_iteration
from netc.cli.log_reader import read_log
from netc.cli.progress import progress_bar
from netc.cli.training_bar import ProgressHook
from netc.data import TopSpec
from netc.runtime import OutputValue


class StandIn:
    """As much of a solver as hooks look at."""

    def __init__(self, batches: tuple[int, ...] = (4,), iter_size: int = 1, max_iter: int = 10) -> None:
        sources = {f"data{i}": SimpleNamespace(tops=(TopSpec((n, 1, 2, 2)),)) for i, n in enumerate(batches)}
        outputs = [OutputValue("loss", np.array([1.5], np.float32), 1.0), OutputValue("p", np.zeros(2), 0.0)]
        self.net = SimpleNamespace(name="tiny", sources=sources, output_values=lambda: outputs)
        self.param = SimpleNamespace(iter_size=iter_size, max_iter=max_iter)
        self.iter = 0
        self.smoothed_loss = 1.25
        self.lr = 0.01
        self.requests: list[str] = []

    def request_stop(self) -> None:
        self.requests.append("stop")


def test_images_are_counted_over_iter_size_and_sources_side_by_side() -> None:
    assert images_per_iteration(StandIn((8, 8), iter_size=3)) == 24
    assert images_per_iteration(StandIn(())) == 0


@pytest.mark.parametrize(("start", "stops_at"), [(0, 3), (4, 7), (8, None)])
def test_stop_after_counts_from_where_the_run_starts_and_leaves_the_last_iteration_alone(
    start: int, stops_at: int | None
) -> None:
    solver, hook = StandIn(max_iter=10), StopAfter(3)
    solver.iter = start
    hook.on_start(solver)
    while solver.iter < 10 and not solver.requests:
        solver.iter += 1
        hook.on_iteration(solver)
    assert (solver.iter if solver.requests else None) == stops_at


def test_events_are_written_one_object_a_line(tmp_path: Path) -> None:
    solver = StandIn()
    with EventHook(tmp_path / "a.jsonl") as hook:
        hook.on_start(solver)
        solver.iter = 5
        hook.on_display(solver)
        hook.on_test(solver, 1, solver.net.output_values())
        hook.on_snapshot(solver, ("a.caffemodel", "a.solverstate"))
        hook.on_end(solver)
    start, display, test, snapshot, end = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert [event["kind"] for event in (start, display, test, snapshot, end)] == [
        "start",
        "display",
        "test",
        "snapshot",
        "end",
    ]
    assert (start["net"], start["max_iter"]) == ("tiny", 10)
    assert (display["iter"], display["loss"], display["lr"]) == (5, 1.25, 0.01)
    assert display["outputs"] == {"loss": 1.5, "p": [0.0, 0.0]}
    assert display["loss_weights"] == {"loss": 1.0}
    assert display["images_per_s"] > 0
    assert display["seconds"] >= 0
    assert (test["net"], test["outputs"]["loss"]) == (1, 1.5)
    assert snapshot["files"] == ["a.caffemodel", "a.solverstate"]
    assert end["iter"] == 5


def test_events_are_read_back_by_the_log_reader(tmp_path: Path) -> None:
    solver = StandIn()
    solver.smoothed_loss, solver.lr = float("nan"), float(np.float32(0.01))
    with EventHook(tmp_path / "a.jsonl") as hook:
        hook.on_start(solver)
        hook.on_display(solver)
    assert '"loss": null, "lr": 0.01,' in (tmp_path / "a.jsonl").read_text()
    (point,) = read_log(tmp_path / "a.jsonl").points
    assert (point.lr, point.outputs) == (0.01, {"loss": 1.5, "p[0]": 0.0, "p[1]": 0.0})


def test_a_full_disk_ends_the_events_and_not_the_run(caplog: pytest.LogCaptureFixture) -> None:
    with EventHook(Path("/dev/full")) as hook:
        hook.on_start(StandIn())
        hook.on_display(StandIn())
    assert [record.getMessage() for record in caplog.records] == [
        "/dev/full is no longer written: No space left on device"
    ]


def test_the_bar_shows_iteration_speed_loss_and_rate() -> None:
    solver = StandIn()
    with progress_bar("{task.completed}") as bar:
        hook = ProgressHook(bar)
        hook.on_start(solver)
        solver.iter = 5
        hook.drawn_at -= 1  # a second ago
        hook.on_iteration(solver)
        (task,) = bar.tasks
        assert (task.completed, task.total) == (5, 10)
        assert task.fields["speed"].endswith(" images/s")
        assert 15 <= float(task.fields["speed"].split()[0]) <= 20
        assert task.fields["figures"] == "loss 1.25  lr 0.01"
