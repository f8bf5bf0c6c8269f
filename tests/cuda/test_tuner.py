"""The fastest of several ways is taken, found once for each kind of GPU, and nobody's values are touched."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from netc.backends.cuda.device import Memory
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.tuning import choose, timings
from netc.backends.cuda.tuning.timings import Timings
from netc.backends.form import Mode, Run
from netc.errors import NetcError
from tests.cuda.clocked import ClockedDevice

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator", "timings_folder")]

SIZES = {"x": 64, "y": 20}


class Ways:
    """Ways that take so many seconds; `runs` counts what was run, `given` is what they were bound to."""

    def __init__(self, device: ClockedDevice, **seconds: float) -> None:
        self.device, self.seconds = device, seconds
        self.runs = 0
        self.given: list[Memory] = []

    def choose(self, work: str = "work", mode: Mode | None = None) -> str:
        ways = {name: lambda memories, name=name: self._bind(name, memories) for name in self.seconds}
        return choose(self.device, mode or Mode(), work, ways, SIZES)

    def _bind(self, name: str, memories: Mapping[str, Memory]) -> Run:
        self.given += memories.values()

        def run() -> None:
            self.device.run_xp(lambda: self._work(name))

        return run

    def _work(self, name: str) -> None:
        self.runs += 1
        self.device.now += self.seconds[name]


def test_the_fastest_way_is_taken(clocked: ClockedDevice) -> None:
    assert Ways(clocked, slow=3e-3, fast=1e-3, middling=2e-3).choose() == "fast"


@pytest.mark.parametrize("shortest", [2e-6, 2e-4])
def test_short_work_is_timed_in_many_runs(clocked: ClockedDevice, shortest: float) -> None:
    ways = Ways(clocked, slow=1.1 * shortest, fast=shortest)
    assert ways.choose() == "fast"
    assert ways.runs > 2 * 4 * 5
    (seconds,) = json.loads(Timings(clocked.properties).path.read_text())["seconds"].values()
    assert seconds == pytest.approx(ways.seconds)


def test_one_slow_run_does_not_count(clocked: ClockedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's work falls into one sample of five."""
    ways, elapsed, calls = Ways(clocked, slow=3e-3, fast=1e-3), clocked.elapsed, iter(range(100))
    monkeypatch.setattr(clocked, "elapsed", lambda run: elapsed(run) + (1 if next(calls) % 6 == 3 else 0))
    assert ways.choose() == "fast"


def test_what_was_found_is_remembered_for_all_of_a_kind(clocked: ClockedDevice) -> None:
    first = Ways(clocked, slow=2e-3, fast=1e-3)
    first.choose("a")
    first.choose("b")
    other = ClockedDevice(1)
    second = Ways(other, slow=2e-3, fast=1e-3)
    assert (second.choose("a"), second.choose("b"), second.runs) == ("fast", "fast", 0)
    assert second.choose("c") == "fast"
    assert second.runs > 0
    other.properties = replace(other.properties, model="another")
    second.runs = 0
    assert second.choose("a") == "fast"
    assert second.runs > 0


def test_other_ways_or_other_kernels_are_timed_anew(
    clocked: ClockedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ways(clocked, slow=2e-3, fast=1e-3).choose()
    more = Ways(clocked, slow=2e-3, fast=1e-3, fastest=5e-4)
    assert more.choose() == "fastest"
    assert more.runs > 0
    monkeypatch.setattr(timings, "sources_of_all_kernels", lambda: "changed")
    more.runs = 0
    more.choose()
    assert more.runs > 0


NO_TIME = '{"kernels": "KERNELS", "seconds": {"work": {"slow": "x"}}}'


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", NO_TIME, "\xff\xfe"])
def test_a_damaged_file_is_ignored_and_mended(
    clocked: ClockedDevice, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    text = text.replace("KERNELS", timings.sources_of_all_kernels())
    Timings(clocked.properties).path.write_bytes(text.encode("latin-1"))
    ways = Ways(clocked, slow=2e-3, fast=1e-3)
    with caplog.at_level(logging.WARNING):
        assert ways.choose() == "fast"
    assert "is ignored, it is damaged" in caplog.text
    ways.runs = 0
    assert (ways.choose(), ways.runs) == ("fast", 0)


def test_the_file_is_whole_whoever_writes_at_once(
    clocked: ClockedDevice, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of 40 writers reads the file that others are replacing."""

    def write(number: int) -> None:
        Timings(clocked.properties).add(f"work {number}", {"one": float(number)})

    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    last = Timings(clocked.properties)
    assert any(last.find(f"work {number}") == {"one": float(number)} for number in range(40))
    assert not caplog.records
    assert [path.name for path in last.path.parent.iterdir()] == [last.path.name]


def test_times_that_cannot_be_written_are_used_all_the_same(
    clocked: ClockedDevice, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> None:
        raise NetcError("no space")

    monkeypatch.setattr(timings, "replacing", refuse)
    with caplog.at_level(logging.WARNING):
        assert Ways(clocked, slow=2e-3, fast=1e-3).choose() == "fast"
    assert "are not remembered: no space" in caplog.text


def test_nothing_is_timed_where_the_mode_is_deterministic(clocked: ClockedDevice) -> None:
    ways = Ways(clocked, slow=2e-3, fast=1e-3)
    assert (ways.choose(mode=Mode(deterministic=True)), ways.runs) == ("slow", 0)
    ways.choose()
    ways.runs = 0  # nor is what was found before used: another machine has found something else
    assert (ways.choose(mode=Mode(deterministic=True)), ways.runs) == ("slow", 0)


def test_nothing_is_timed_without_a_clock_or_a_choice(
    fast: EmulatedDevice, clocked: ClockedDevice, tmp_path: Path
) -> None:
    def refuse(memories: Mapping[str, Memory]) -> Run:
        raise AssertionError("bound")

    assert choose(fast, Mode(), "work", {"rule": refuse, "other": refuse}, SIZES) == "rule"
    assert choose(clocked, Mode(), "work", {"only": refuse}, SIZES) == "only"
    assert not list(tmp_path.rglob("*.json"))


def test_where_memory_does_not_suffice_the_rule_decides(caplog: pytest.LogCaptureFixture) -> None:
    device = ClockedDevice(memory_bytes=80)
    ways = Ways(device, rule=2e-3, fast=1e-3)
    with caplog.at_level(logging.WARNING):
        assert ways.choose() == "rule"
    assert "work is not timed, rule is taken" in caplog.text
    assert (ways.runs, device.free_bytes()) == (0, 80)


def test_ways_are_given_noise_in_memories_of_their_own(clocked: ClockedDevice) -> None:
    before = clocked.free_bytes()
    ways = Ways(clocked, one=2e-3, two=1e-3)
    seen: list[Sequence[float]] = []

    def bind(name: str, memories: Mapping[str, Memory]) -> Run:
        for memory in memories.values():
            seen.append(clocked.array(memory).view("float32").tolist())
        return lambda: None

    choose(clocked, Mode(), "noise", {name: lambda m, name=name: bind(name, m) for name in "ab"}, SIZES)
    assert [len(numbers) for numbers in seen] == [16, 5, 16, 5]
    assert all(-1 <= number <= 1 for numbers in seen for number in numbers)
    assert len(set(seen[0])) == 16
    ways.choose()
    assert all(memory.allocation.freed for memory in ways.given)
    assert clocked.free_bytes() == before


def test_large_memories_are_filled_to_their_end(clocked: ClockedDevice) -> None:
    nbytes = (5 << 20) + 12
    ends: list[float] = []

    def bind(memories: Mapping[str, Memory]) -> Run:
        numbers = clocked.array(memories["x"]).view("float32")
        ends.extend([float(abs(numbers).max()), float(abs(numbers[-3:]).min())])
        return lambda: None

    choose(clocked, Mode(), "large", {"a": bind, "b": bind}, {"x": nbytes})
    assert 0 < min(ends) <= max(ends) <= 1


def test_a_rehearsal_binds_every_way_and_times_none(clocked: ClockedDevice) -> None:
    ways, free = Ways(clocked, slow=2.0, fast=1.0), clocked.free_bytes()
    assert ways.choose(mode=Mode(rehearsal=True)) == "slow"
    assert len(ways.given) == 2 * len(SIZES)
    assert {memory.name: memory.nbytes for memory in ways.given} == SIZES
    assert ways.runs == 0
    assert clocked.free_bytes() == free
    assert not Timings(clocked.properties).path.exists()


def test_a_rehearsal_of_what_is_known_binds_nothing(clocked: ClockedDevice) -> None:
    assert Ways(clocked, slow=2.0, fast=1.0).choose() == "fast"
    ways = Ways(clocked, slow=2.0, fast=1.0)
    assert ways.choose(mode=Mode(rehearsal=True)) == "fast"
    assert not ways.given


def test_what_others_have_written_since_is_seen(clocked: ClockedDevice) -> None:
    timings_here = Timings(clocked.properties)
    for seconds in (1.0, 2.5):  # text of the same length
        Timings(clocked.properties).add("work", {"one": seconds})
        assert timings_here.find("work") == {"one": seconds}
    timings_here.path.unlink()
    assert timings_here.find("work") == {}
