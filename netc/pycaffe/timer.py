"""A stopwatch, as pycaffe offers one."""

from __future__ import annotations

import time


class Timer:
    """`start()`, work, `stop()`; then `ms`, `us` and `seconds` tell how long the work took."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._elapsed = 0.0

    def start(self) -> None:
        """Starts from zero."""
        self._started, self._elapsed = time.perf_counter(), 0.0

    def stop(self) -> None:
        """Holds the time since `start`; without effect on a timer that does not run."""
        self._elapsed, self._started = self.seconds, None

    @property
    def seconds(self) -> float:
        """The time between `start` and `stop`; up to now while the timer runs."""
        return self._elapsed if self._started is None else time.perf_counter() - self._started

    @property
    def ms(self) -> float:
        """`seconds` in milliseconds."""
        return self.seconds * 1e3

    @property
    def us(self) -> float:
        """`seconds` in microseconds."""
        return self.seconds * 1e6
