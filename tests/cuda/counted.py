"""What a device is asked for while some work is done, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from netc.backends.cuda.device import Device
from netc.backends.cuda.emulator.device import EmulatedGraph
from netc.backends.cuda.gpu.cupy_device import CupyGraph


class Counted:
    """What a device is asked for."""

    def __init__(self, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts = dict.fromkeys(("replay", "_launch", "_upload", "_download", "_fill"), 0)
        self._patch = monkeypatch
        for name in self.counts:
            for kind in (EmulatedGraph, CupyGraph) if name == "replay" else (type(device),):
                self._count(kind, name)

    def _count(self, kind: type, name: str) -> None:
        method = getattr(kind, name)

        def counted(*arguments: Any) -> Any:
            self.counts[name] += 1
            return method(*arguments)

        self._patch.setattr(kind, name, counted)

    def of(self, work: Callable[[], None]) -> dict[str, int]:
        """How often each thing is asked for by this work; what is not asked for is left out."""
        before = dict(self.counts)
        work()
        return {name: count - before[name] for name, count in self.counts.items() if count > before[name]}
