"""The log of a run says what share of its time was spent on waiting for data."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from netc.solver import Solver
from netc.solver.hooks import Hook
from netc.solver.report import say_waiting
from netc.solver.waiting import WaitingSpan
from tests.solver.small_run import make_small_run

WHOLE = re.compile(r"Training took ([\d.]+) s, of which ([\d.]+)% was waiting for data")
SINCE_DISPLAY = re.compile(r"Waited for data in (\d+)% of that time")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class SlowData(Hook):
    """Lets every iteration wait so many seconds for its data."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_forward(self, solver: Solver) -> None:
        time.sleep(self.seconds)
        for source in solver.net.sources.values():
            source.waited_s += self.seconds


def test_waiting_is_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "netc"):
        Solver(make_small_run(folder, max_iter=6), hooks=[SlowData(0.2)]).solve()
    whole = [match for message in caplog.messages if (match := WHOLE.fullmatch(message))]
    assert len(whole) == 1
    assert float(whole[0][1]) >= 1.2
    assert float(whole[0][2]) > 25
    noted = [match for message in caplog.messages if (match := SINCE_DISPLAY.fullmatch(message))]
    assert len(noted) == 6
    assert max(float(match[1]) for match in noted) > 25


@pytest.mark.parametrize(("share", "lines"), [(0.04, 0), (0.05, 1), (1.0, 1)])
def test_a_display_tells_only_of_waiting_that_is_worth_a_thought(
    caplog: pytest.LogCaptureFixture, share: float, lines: int
) -> None:
    with caplog.at_level(logging.INFO, "netc"):
        say_waiting(share)
    assert caplog.messages == [f"Waited for data in {100 * share:.0f}% of that time"] * lines


def test_the_share_is_of_the_time_since_the_span_began(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    sources: list[Any] = [SimpleNamespace(waited_s=5.0), SimpleNamespace(waited_s=0.0)]
    nets: list[Any] = [SimpleNamespace(sources={"data": source}) for source in sources]
    span = WaitingSpan(nets)
    assert span.share == 0
    now[0] = 104.0
    sources[0].waited_s, sources[1].waited_s = 5.5, 0.5
    assert (span.seconds, span.share) == (4.0, 0.25)
    sources[0].waited_s = 50.0  # two nets may wait at once
    assert span.share == 1.0
