"""What goes up to a device raw, and in which order it is sent, awaited and used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.compilation import Kernel
from netc.backends.cuda.device import Event, Memory
from netc.backends.cuda.emulator import EmulatedDevice


class Sent:
    """Counts what goes up raw."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.copies = 0
        send = EmulatedDevice.send

        def counted(device: EmulatedDevice, memory: Memory, *arguments: Any) -> Event:
            self.copies += memory.name.startswith("raw batch")
            return send(device, memory, *arguments)

        monkeypatch.setattr(EmulatedDevice, "send", counted)


class Moment(Event):
    """An event that says when the host waits for it."""

    def __init__(self, log: list[str], name: str, event: Event) -> None:
        self.log, self.name, self.event = log, name, event

    def wait(self) -> None:
        self.log.append(f"host waits for {self.name}")
        self.event.wait()


class LoggedDevice(EmulatedDevice):
    """Says in which order batches go up and kernels run; events are called after what they follow."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.made = "nothing"

    def send(self, memory: Memory, array: np.ndarray, after: Event | None = None) -> Event:
        slot = memory.name[-1]
        self.log.append(f"send to {slot}" + (f" after {after.name}" if isinstance(after, Moment) else ""))
        return Moment(self.log, f"slot {slot}", super().send(memory, array))

    def wait_for(self, event: Event) -> None:
        assert isinstance(event, Moment)
        self.log.append(f"{event.name} is awaited")
        super().wait_for(event.event)

    def mark(self) -> Event:
        return Moment(self.log, self.made, super().mark())

    def launch(self, kernel: Kernel, grid: Any, block: Any, arguments: Any, *rest: Any) -> None:
        (pixels,) = [a for a in arguments if isinstance(a, Memory) and a.name == "pixels"]
        self.made = f"use of slot {pixels.allocation.name[-1]}"
        self.log.append(self.made)
        super().launch(kernel, grid, block, arguments, *rest)
