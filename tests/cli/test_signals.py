"""What signals do to a run, with a stand-in for the solver."""

import os
import signal
import threading

import pytest

from netc.cli.signals import signal_effects


class Requests:
    """A solver that only remembers what was asked of it."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def request_stop(self) -> None:
        self.made.append("stop")

    def request_snapshot(self) -> None:
        self.made.append("snapshot")


@pytest.mark.parametrize(
    ("effect", "requests"), [("stop", ["stop"]), ("snapshot", ["snapshot"]), ("none", [])]
)
def test_signals_have_the_effect_asked_for(effect: str, requests: list[str]) -> None:
    solver = Requests()
    with signal_effects(solver, {signal.SIGUSR1: effect}):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert solver.made == requests


def test_the_second_signal_that_stops_interrupts() -> None:
    solver = Requests()
    with signal_effects(solver, {signal.SIGUSR1: "stop", signal.SIGUSR2: "stop"}):
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGUSR2)
    assert solver.made == ["stop"]


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with signal_effects(Requests(), {signal.SIGINT: "stop"}):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_leaves_signals_alone() -> None:
    seen = []

    def run() -> None:
        with signal_effects(Requests(), {signal.SIGINT: "stop"}):
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
