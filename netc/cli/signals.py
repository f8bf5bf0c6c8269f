"""What a signal does to a training run: finish the iteration, take a snapshot, stop, or nothing."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Final, Protocol

log = logging.getLogger(__name__)

EFFECTS: Final = ("snapshot", "stop", "none")
MESSAGES: Final = {
    "stop": "finishing this iteration, then a snapshot and the end; once more stops at once, without one",
    "snapshot": "a snapshot follows this iteration",
    "none": "it has no effect on this run",
}


class Stoppable(Protocol):
    """What a signal needs of a solver: two requests that are heeded after the current iteration."""

    def request_stop(self) -> None: ...

    def request_snapshot(self) -> None: ...


class SignalEffects:
    """The handler of all signals of one run; the second signal that stops ends the run at once."""

    def __init__(self, solver: Stoppable, effects: Mapping[signal.Signals, str]) -> None:
        self.solver = solver
        self.effects = effects
        self.stopping = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal. Raises KeyboardInterrupt for the second one that stops."""
        effect = self.effects[signal.Signals(number)]
        if effect == "stop":
            if self.stopping:
                raise KeyboardInterrupt
            self.stopping = True
            self.solver.request_stop()
        elif effect == "snapshot":
            self.solver.request_snapshot()
        # It may have come in the middle of a write to the log, which one thread cannot enter twice.
        message = f"{signal.Signals(number).name}: {MESSAGES[effect]}"
        threading.Thread(target=log.info, args=(message,), daemon=True).start()


@contextmanager
def signal_effects(solver: Stoppable, effects: Mapping[signal.Signals, str]) -> Iterator[None]:
    """Handles these signals while a run lasts, and puts back what was there before.

    Only the main thread can handle signals: in any other this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = SignalEffects(solver, effects)
    before = {number: signal.signal(number, handler) for number in effects}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
