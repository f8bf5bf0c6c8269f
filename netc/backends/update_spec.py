"""What an update of all parameters is to do, and what a backend makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class UpdateSpec:
    """A solver's rule over flat arrays.

    type: the solver type; momentum2: RMSProp's is its rms_decay; l1: L1 regularisation in place of L2; clip:
    the most that the gradients' L2 norm may be, negative for no limit; runs: (start, count, lr_mult, decay)
    of every stretch that is updated, decay being weight_decay * decay_mult.
    """

    type: str
    momentum: float
    momentum2: float
    delta: float
    l1: bool
    clip: float
    iter_size: int
    runs: tuple[tuple[int, int, float, float], ...]


class Update(Protocol):
    """An update that is bound to its arrays."""

    def apply(self, iteration: int, rate: float) -> None:
        """Clips, divides by iter_size, regularises, applies the rule and subtracts; the gradients are left
        holding the updates. iteration: the number of updates made before; rate: the learning rate."""

    def apply_scaled(self, iteration: int, rate: float, scale: float) -> bool:
        """The same for gradients that are `scale` times too large; False, and nothing is changed, where one
        of them is not a finite number."""
