"""Contenders in processes of their own that take turns: one runs while the others sleep."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final

from bench.figure import Figure
from bench.job import Job
from bench.prepare import python_path
from netc.cores import THREAD_VARIABLES

LEAST_ROUNDS: Final = 5
SETTLE_SECONDS: Final = 0.02  # so that threads of the one before have stopped waiting for work in a loop


class ContenderFailed(Exception):
    """A contender's process ended; its last words."""


class Contender:
    """A process that runs one job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.name = job.contender
        threads = dict.fromkeys(THREAD_VARIABLES, str(job.threads))
        environment = {**os.environ, **threads, "PYTHONPATH": python_path()}
        environment.pop("OMP_DYNAMIC", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", job.text()],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for the answer. Raises ContenderFailed."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # `answer` finds out why
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next answer; the first one says that the job is ready."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate()
            words = errors.strip().splitlines()[-12:]
            raise ContenderFailed("\n".join(words) or f"exit status {self.process.returncode}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        if self.process.poll() is None:
            self.process.communicate()


@dataclass(frozen=True)
class Rounds:
    """What the rounds came to, by contender; busy_elsewhere: the cores that other programs kept busy
    meanwhile, on average."""

    figures: dict[str, Figure]
    busy_elsewhere: float


class Contest:
    """Several contenders of one net and task; one that fails is left out, with the reason.

    clock: "cpu" for the processor time of the process, "wall" for what a clock on the wall shows.
    """

    def __init__(self, jobs: Sequence[Job], clock: str, say: Callable[[str], None]) -> None:
        self.clock, self.say = clock, say
        self.failures: dict[str, str] = {}
        self.contenders: dict[str, Contender] = {}
        for job in jobs:
            self.contenders[job.contender] = Contender(job)
            self._try(job.contender, lambda contender: contender.answer())

    def __enter__(self) -> Contest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for contender in self.contenders.values():
            contender.close()

    def _try(self, name: str, what: Callable[[Contender], dict[str, Any]]) -> dict[str, Any] | None:
        try:
            return what(self.contenders[name])
        except ContenderFailed as failure:
            self.failures[name] = str(failure)
            self.contenders.pop(name)
            self.say(f"  {name} failed: {str(failure).splitlines()[-1]}")
            return None

    def ask_each(self, **request: Any) -> dict[str, dict[str, Any]]:
        """Every contender's answer to a request, one after the other."""
        return self.ask_only(*self.contenders, **request)

    def ask_only(self, *names: str, **request: Any) -> dict[str, dict[str, Any]]:
        """The answers of these contenders, of those that are still there."""
        answers = {}
        for name in [name for name in names if name in self.contenders]:
            answer = self._try(name, lambda contender: contender.ask(**request))
            if answer is not None:
                answers[name] = answer
        return answers

    def rounds(self, seconds: float, round_seconds: float, most: int = 21) -> Rounds:
        """Runs all in turn, round after round, for about `seconds`; what one step of each takes.

        A contender's turn is as many steps as fit into `round_seconds`, at least one; a round's figure is
        their mean. The order rotates, so that no one always follows the same.
        """
        steps = self._steps_of_a_turn(round_seconds)
        measured: dict[str, list[float]] = {name: [] for name in steps}
        start, busy, own = time.perf_counter(), busy_seconds(), 0.0
        for number in range(most):
            if number >= LEAST_ROUNDS and time.perf_counter() - start > seconds:
                break
            for name in rotated(list(self.contenders), number):
                time.sleep(SETTLE_SECONDS)
                took = self._try(name, partial(Contender.ask, do="run", steps=steps[name]))
                if took is not None:
                    measured[name].append(took[self.clock] / steps[name])
                    own += took["cpu"]
        elsewhere = (busy_seconds() - busy - own) / (time.perf_counter() - start)
        figures = {name: Figure(measured[name], steps[name]) for name in self.contenders}
        return Rounds(figures, max(0.0, elsewhere))

    def _steps_of_a_turn(self, round_seconds: float) -> dict[str, int]:
        """Warms all up, in which compilers compile, and sees how many steps a turn of each has."""
        self.ask_each(do="run", steps=2)
        once = self.ask_each(do="run", steps=1)
        return {
            name: max(1, min(1000, round(round_seconds / max(took["wall"], 1e-6))))
            for name, took in once.items()
        }


def rotated(names: Sequence[str], by: int) -> list[str]:
    """The names, beginning with another one."""
    return [names[(place + by) % len(names)] for place in range(len(names))]


def busy_seconds() -> float:
    """The processor time that all programs of this machine have taken since it started; 0 if unknown."""
    try:
        with open("/proc/stat") as stat:
            user, nice, system, _, _, *others = map(int, stat.readline().split()[1:9])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")  # interrupts, time stolen
