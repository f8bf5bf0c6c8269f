"""`netc parse_log`: the CSV files of Caffe's script, from Caffe's log and from netc's."""

import csv
import json
from pathlib import Path

import pytest

from netc.cli.main import main

LOG = Path(__file__).parent.parent / "golden" / "misc" / "caffe_train.log"


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_log_of_caffe(tmp_path: Path) -> None:
    assert main(["parse_log", str(LOG), str(tmp_path)]) == 0
    train = rows(tmp_path / "caffe_train.log.train")
    assert list(train[0]) == ["NumIters", "Seconds", "LearningRate", "loss"]
    assert [row["NumIters"] for row in train] == ["0.0", "5.0", "10.0", "15.0", "20.0"]
    assert [row["LearningRate"] for row in train] == ["0.05", "0.05", "0.025", "0.025", "0.0125"]
    assert [row["loss"] for row in train] == ["1.67763", "1.37445", "0.58139", "0.0804305", "0.0824519"]
    # Since "Solving convnet" at 00:30:41.825623.
    assert train[0]["Seconds"] == "0.002584"
    test = rows(tmp_path / "caffe_train.log.test")
    assert list(test[0]) == ["NumIters", "Seconds", "LearningRate", "acc", "loss"]
    assert [row["acc"] for row in test] == ["0.208333", "0.875", "1.0"]
    assert [row["LearningRate"] for row in test] == ["0.05", "0.025", "0.0125"]


def test_events_in_json_lines(tmp_path: Path) -> None:
    events = [
        {"kind": "display", "iter": 0, "seconds": 0.5, "loss": 2.5, "lr": 0.1, "outputs": {"loss": 2.5}},
        {"kind": "test", "iter": 0, "seconds": 0.7, "net": 0, "outputs": {"accuracy": 0.5}},
    ]
    (tmp_path / "run.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert main(["parse_log", "-delimiter", ";", str(tmp_path / "run.jsonl"), str(tmp_path)]) == 0
    assert (
        tmp_path / "run.jsonl.train"
    ).read_text() == "NumIters;Seconds;LearningRate;loss\n0.0;0.5;0.1;2.5\n"
    assert (
        tmp_path / "run.jsonl.test"
    ).read_text() == "NumIters;Seconds;LearningRate;accuracy\n0.0;0.7;0.1;0.5\n"


def test_a_log_without_iterations_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.log").write_text("nothing\n")
    assert main(["parse_log", str(tmp_path / "empty.log"), str(tmp_path)]) == 1
    assert "has no iterations" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.log"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parse_log", str(LOG), str(tmp_path / "none")]) == 1
    assert "mkdir -p" in capsys.readouterr().err
