"""A measured figure: the median of its rounds, with the least and the most."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """The seconds of one step, round by round; steps: how many a round has, of which it is the mean."""

    seconds: Sequence[float]
    steps: int = 1

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        return min(self.seconds)

    @property
    def most(self) -> float:
        return max(self.seconds)

    def as_dict(self) -> dict[str, Any]:
        """Milliseconds, as a result file holds them."""
        return {
            "median_ms": milliseconds(self.median),
            "min_ms": milliseconds(self.least),
            "max_ms": milliseconds(self.most),
            "rounds": len(self.seconds),
            "steps_per_round": self.steps,
        }


def milliseconds(seconds: float) -> float:
    """To a tenth of a microsecond: what a clock can tell."""
    return round(1e3 * seconds, 4)
