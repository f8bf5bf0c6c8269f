"""What parts of some work take is added up, each without the others within it."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from bench import stopwatch
from bench.stopwatch import watching


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`now` is what the processor's clock says."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(stopwatch.time, "thread_time", lambda: clock.now)
    return clock


def work_for(clock: SimpleNamespace) -> SimpleNamespace:
    """`inner` takes 2 seconds, `outer` 3 and what `inner` takes, `broken` 5 and then fails."""

    def inner() -> str:
        clock.now += 2
        return "done"

    def outer() -> str:
        clock.now += 3
        return str(work.inner())

    def broken() -> None:
        clock.now += 5
        raise ValueError("broken")

    work = SimpleNamespace(inner=inner, outer=outer, broken=broken)
    return work


def test_each_part_is_what_it_takes_itself(clock: SimpleNamespace) -> None:
    work = work_for(clock)
    with watching({"in": [(work, "inner")], "out": [(work, "outer"), (work, "broken")]}) as seconds:
        assert work.outer() == "done"
        work.inner()
        with pytest.raises(ValueError, match="broken"):
            work.broken()
    assert seconds == {"in": 4, "out": 8}


def test_afterwards_nothing_is_counted(clock: SimpleNamespace) -> None:
    work = work_for(clock)
    with watching({"in": [(work, "inner")]}) as seconds:
        pass
    work.inner()
    assert seconds == {"in": 0}


def test_other_threads_are_not_counted(clock: SimpleNamespace) -> None:
    work = work_for(clock)
    with watching({"in": [(work, "inner")]}) as seconds:
        thread = threading.Thread(target=work.inner)
        thread.start()
        thread.join()
    assert seconds == {"in": 0}
