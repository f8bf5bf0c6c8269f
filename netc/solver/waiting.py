"""How much of the time nets wait for data."""

from __future__ import annotations

import time
from collections.abc import Iterable

from netc.runtime import Net


class WaitingSpan:
    """A stretch of time that begins now."""

    def __init__(self, nets: Iterable[Net]) -> None:
        self._nets = list(nets)
        self._begun, self._waited = time.perf_counter(), self._waited_so_far()

    def _waited_so_far(self) -> float:
        return sum(source.waited_s for net in self._nets for source in net.sources.values())

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self._begun

    @property
    def share(self) -> float:
        """The part of it, from 0 to 1, in which the nets waited for their data sources."""
        return min(1.0, (self._waited_so_far() - self._waited) / (self.seconds or 1))
