"""An emulated device with a clock, for what is timed on a GPU."""

from __future__ import annotations

from collections.abc import Callable

from netc.backends.cuda.emulator import EmulatedDevice


class ClockedDevice(EmulatedDevice):
    """An emulated device whose clock is what the tests say: `now`, which work moves on, in seconds."""

    has_clock = True
    now = 0.0

    def elapsed(self, run: Callable[[], None]) -> float:
        begin = self.now
        run()
        return self.now - begin
