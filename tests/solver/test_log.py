"""The lines of a training run stand in the log as in Caffe's own logs of the same runs."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from netc.solver import Solver

GOLDEN = Path(__file__).parent.parent / "golden" / "misc"
SOURCES = ("solver.cpp", "sgd_solver.cpp")
SPEED = re.compile(r"\([^()]* iter/s, [^()]*s/(\d+) iters\)")
NUMBER = re.compile(r"(?<![\w#])[-+]?\d+\.\d+(?:e[-+]\d+)?")


def caffes_lines(log: str) -> list[str]:
    """`source] message` of the solver's lines in one of Caffe's logs."""
    lines = []
    for line in (GOLDEN / log).read_text().splitlines():
        match = re.match(r"I\d+ [\d:.]+ +\d+ (\w+\.cpp:\d+\] .*)", line)
        if match and match[1].startswith(SOURCES):
            lines.append(match[1])
    return lines


def own_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        f"{record.source}] {record.getMessage().splitlines()[0]}"  # type: ignore[attr-defined]
        for record in caplog.records
        if getattr(record, "source", "").startswith(SOURCES)
    ]


def assert_same_lines(found: list[str], expected: list[str]) -> None:
    """The same words, and figures that agree to the digits that Caffe shows; speeds in the same form."""

    def form(lines: list[str]) -> list[str]:
        return [NUMBER.sub("N", SPEED.sub(r"(SPEED \1)", line)) for line in lines]

    def figures(lines: list[str]) -> list[float]:
        return [float(number) for line in lines for number in NUMBER.findall(SPEED.sub("", line))]

    # A figure may be printed as 1 where Caffe has 1.00001.
    assert form(found) == form(expected)
    assert figures(found) == pytest.approx(figures(expected), rel=2e-5)


def test_a_run_reads_like_caffes(train_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "netc"):
        Solver("train_solver.prototxt", weights="conv_init.caffemodel").solve()
    assert_same_lines(own_lines(caplog), caffes_lines("caffe_train.log"))


def test_a_resumed_run_reads_like_caffes(train_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "netc"):
        solver = Solver("train_solver.prototxt")
        solver.restore("snap_iter_20.solverstate")
        solver.solve()
    assert_same_lines(own_lines(caplog), caffes_lines("caffe_train_resume.log"))


def test_the_definition_is_logged_whole(train_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "netc"):
        Solver("train_solver.prototxt")
    text = next(m for m in caplog.messages if m.startswith("Initializing solver from parameters: \n"))
    assert 'lr_policy: "step"\n' in text
    assert text.endswith("average_loss: 3")
