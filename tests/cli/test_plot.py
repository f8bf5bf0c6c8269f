"""Curves from logs: Caffe's own, netc's, and JSON lines; what is read, and what is drawn."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from netc.cli.figure import short_labels, smoothed
from netc.cli.log_reader import read_log
from netc.cli.main import main
from netc.errors import NetcError

GOLDEN = Path(__file__).parent.parent / "golden" / "misc"
PNG = b"\x89PNG\r\n\x1a\n"


def write_log(path: Path, lines: str, prefix: str = "I1121 00:30:41.818488 30039 solver.cpp:239] ") -> Path:
    path.write_text("".join(f"{prefix}{line}\n" for line in lines.strip("\n").splitlines()))
    return path


NETC_LOG = """
Iteration 0, Testing net (#0)
    Test net output #0: accuracy = 0.1
    Test net output #1: loss = 2.3 (* 1 = 2.3 loss)
Iteration 0 (-1 iter/s, 0s/5 iters), loss = 2.31
    Train net output #0: loss = 2.31 (* 1 = 2.31 loss)
Iteration 0, lr = 0.01
Iteration 5 (20 iter/s, 0.25s/5 iters), loss = 1.5
    Train net output #0: loss = 1.4 (* 1 = 1.4 loss)
Iteration 5, lr = 0.005
"""


def test_caffes_own_log_is_read_whole() -> None:
    log = read_log(GOLDEN / "caffe_train.log")
    display = log.of("display")
    assert [point.iteration for point in display] == [0, 5, 10, 15, 20, 25]
    assert [point.loss for point in display] == [1.67763, 1.02964, 0.599738, 0.289197, 0.100194, 0.0434764]
    assert [point.lr for point in display] == [0.05, 0.05, 0.025, 0.025, 0.0125, None]
    assert display[1].outputs == {"loss": 1.37445}
    test = log.of("test", 0)
    assert [point.iteration for point in test] == [0, 10, 20]
    assert [point.outputs["acc"] for point in test] == [0.208333, 0.875, 1]
    assert test[0].losses == {"loss"}
    assert display[-1].seconds == pytest.approx(41.830264 - 41.825670, abs=0.006)


@pytest.mark.parametrize(
    "prefix",
    [
        "I1121 00:30:41.818488 30039 solver.cpp:239] ",
        "I20261121 00:30:41.818488 30039 solver.cpp:239] ",
        "I1121 00:30:41.818488    39 solver.py:45] ",
    ],
)
def test_every_generation_of_the_prefix_is_read(prefix: str, tmp_path: Path) -> None:
    log = read_log(write_log(tmp_path / "a.log", NETC_LOG, prefix))
    assert [(point.iteration, point.loss, point.lr) for point in log.of("display")] == [
        (0, 2.31, 0.01),
        (5, 1.5, 0.005),
    ]
    assert log.of("test")[0].outputs == {"accuracy": 0.1, "loss": 2.3}


def test_seconds_run_on_over_midnight_and_new_year(tmp_path: Path) -> None:
    lines = (
        "I1231 23:59:50.000000 1 s.cpp:1] Iteration 0, loss = 2\n"
        "I0101 00:00:10.500000 1 s.cpp:1] Iteration 5, loss = 1\n"
    )
    (tmp_path / "a.log").write_text(lines)
    assert [point.seconds for point in read_log(tmp_path / "a.log").points] == [0, 20.5]


def test_what_a_resumed_run_did_again_replaces_what_came_before(tmp_path: Path) -> None:
    lines = "\n".join(
        f"Iteration {i}, loss = {value}" for i, value in [(0, 9), (10, 8), (20, 7), (10, 6), (20, 5)]
    )
    log = read_log(write_log(tmp_path / "a.log", lines))
    assert [(point.iteration, point.loss) for point in log.points] == [(0, 9), (10, 6), (20, 5)]


def test_longer_outputs_and_several_test_nets_are_told_apart(tmp_path: Path) -> None:
    log = read_log(
        write_log(
            tmp_path / "a.log",
            """
Iteration 0, Testing net (#0)
    Test net output #0: prob = 0.25
    Test net output #1: prob = 0.75
Iteration 0, Testing net (#1)
    Test net output #0: prob = 0.5
""",
        )
    )
    assert [(point.net, point.outputs) for point in log.of("test")] == [
        (0, {"prob[0]": 0.25, "prob[1]": 0.75}),
        (1, {"prob": 0.5}),
    ]


def test_losses_that_are_not_finite_are_read(tmp_path: Path) -> None:
    lines = "Iteration 0, loss = nan\nIteration 1, loss = -nan\nIteration 2, loss = inf"
    losses = [point.loss for point in read_log(write_log(tmp_path / "a.log", lines)).points]
    assert math.isnan(losses[0])
    assert math.isnan(losses[1])
    assert losses[2] == math.inf


def test_json_lines_are_read_and_a_cut_off_last_line_is_left_out(tmp_path: Path) -> None:
    events = [
        {"kind": "start", "iter": 0, "max_iter": 9},
        {"kind": "test", "iter": 0, "net": 1, "outputs": {"acc": 0.5, "p": [0.1, None]}, "loss_weights": {}},
        {
            "kind": "display",
            "iter": 0,
            "loss": None,
            "lr": 0.1,
            "outputs": {"l": 2.0},
            "loss_weights": {"l": 1.0},
        },
        {"kind": "snapshot", "iter": 5, "files": ["a"]},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"kind": "disp')
    test, display = read_log(path).points
    assert (test.net, test.outputs["acc"], test.outputs["p[0]"]) == (1, 0.5, 0.1)
    assert math.isnan(test.outputs["p[1]"])
    assert (display.lr, display.outputs, display.losses) == (0.1, {"l": 2.0}, {"l"})
    assert math.isnan(display.loss)


def test_json_lines_broken_in_the_middle_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"kind": "end", "iter": 0}\n[1, 2]\n{"kind": "end", "iter": 0}\n')
    with pytest.raises(NetcError, match="none of netc's events") as caught:
        read_log(path)
    assert caught.value.at.line == 2


@pytest.mark.parametrize(("suffix", "start"), [(".png", PNG), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_ending_says_how_to_draw(suffix: str, start: bytes, tmp_path: Path) -> None:
    target = tmp_path / "new folder" / f"curve{suffix}"
    assert main(["plot", str(GOLDEN / "caffe_train.log"), "-o", str(target)]) == 0
    assert target.read_bytes().startswith(start)
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_several_logs_are_drawn_with_a_legend(tmp_path: Path) -> None:
    write_log(tmp_path / "mine.log", NETC_LOG)
    target = tmp_path / "curve.svg"
    logs = [str(GOLDEN / "caffe_train.log"), str(tmp_path / "mine.log")]
    assert main(["plot", *logs, "-o", str(target), "-title=Two runs"]) == 0
    text = target.read_text()
    for words in (
        "Two runs",
        "caffe_train.log: training",
        "mine.log: test loss",
        "learning rate",
        "iteration",
    ):
        assert f"<!-- {words}" in text  # matplotlib notes every text that it draws


def test_a_log_with_one_point_or_no_number_is_drawn(tmp_path: Path) -> None:
    one = write_log(tmp_path / "one.log", "Iteration 0, loss = 2")
    nan = write_log(tmp_path / "nan.log", "Iteration 0, loss = nan\nIteration 1, loss = nan")
    for log in (one, nan):
        assert main(["plot", str(log), "-o", str(log.with_suffix(".png"))]) == 0
        assert log.with_suffix(".png").exists()


def test_a_log_with_nothing_to_plot_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.log").write_text("nothing here\n")
    target = tmp_path / "curve.png"
    assert (
        main(["plot", str(GOLDEN / "caffe_train.log"), str(tmp_path / "empty.log"), "-o", str(target)]) == 1
    )
    err = capsys.readouterr().err
    assert "empty.log: this log has nothing to plot" in err
    assert not target.exists()


@pytest.mark.parametrize("name", ["missing.log", "folder"])
def test_a_log_that_cannot_be_read_is_an_error(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    assert main(["plot", str(tmp_path / name)]) == 1
    assert str(tmp_path / name) in capsys.readouterr().err


def test_an_unknown_ending_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", str(GOLDEN / "caffe_train.log"), "-o", str(tmp_path / "curve.doc")]) == 1
    assert ".png" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_smoothing_averages_neighbours_and_skips_what_is_not_finite() -> None:
    values = np.array([1.0, 2, 3, np.nan, 5])
    assert smoothed(values, 3).tolist() == [1.5, 2, 2.5, 4, 5]
    assert smoothed(values, 1)[[0, 1, 2, 4]].tolist() == [1, 2, 3, 5]
    assert np.isnan(smoothed(np.full(4, np.nan), 3)).all()


def test_labels_are_as_short_as_they_can_be() -> None:
    assert short_labels([Path("/r/a.log"), Path("/r/b.log")]) == ["a.log", "b.log"]
    assert short_labels([Path("/r/1/log"), Path("/r/2/log")]) == ["1/log", "2/log"]
    assert len(set(short_labels([Path("x"), Path("x")]))) == 2
