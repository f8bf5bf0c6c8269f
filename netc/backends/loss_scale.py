"""Loss scaling: gradients are multiplied by a power of two on their way through 16-bit products.

A gradient below 6e-8 would be rounded to zero there. The loss is scaled up, the update takes it back; where
something overflows, the update is left out and the scale halved, and after a long run without, doubled.
(Micikevicius et al., "Mixed precision training", 2018)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

MOST = 2.0**24
LEAST = 1.0
PATIENCE = 2000  # updates without an overflow until the scale is doubled


@dataclass
class LossScale:
    """The scale of the next pass, and how many updates in a row it has held.

    A backend keeps both, in this order, as two numbers that its updates move on.
    """

    value: float = 2.0**15
    held: int = 0

    def note(self, applied: bool) -> None:
        """Takes in whether an update was applied, or left out because the gradients had overflowed."""
        if not applied:
            self.value, self.held = max(LEAST, self.value / 2), 0
            return
        self.held += 1
        if self.held >= PATIENCE:
            self.value, self.held = min(MOST, self.value * 2), 0

    def state(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        return asdict(self)
