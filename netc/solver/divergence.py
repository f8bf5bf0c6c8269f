"""Notices training that is lost: a loss, or parameters, that are no longer numbers, or a net that is sure of
nothing but wrong classes. Says so once."""

from __future__ import annotations

import logging
import math

from netc.layer.loss import SMALLEST_PROBABILITY
from netc.runtime import Net

log = logging.getLogger(__name__)

# The loss of a class whose probability is 0, which is never taken for less than the smallest normal float.
CERTAINLY_WRONG = -math.log(SMALLEST_PROBABILITY)
TOLERANCE = 1e-5

REMEDY = (
    "Start again with a lower base_lr (now %g) or with clip_gradients, and check the data for values that "
    "are not numbers."
)


class Divergence:
    """What a solver shows its losses and, now and then, its net to."""

    def __init__(self, base_lr: float) -> None:
        self._base_lr = base_lr
        self._said = False
        self._was_certainly_wrong = False

    def look_at_loss(self, loss: float, iteration: int) -> None:
        """An iteration's loss."""
        if self._said:
            return
        wrong = math.isclose(loss, CERTAINLY_WRONG, rel_tol=TOLERANCE)
        twice, self._was_certainly_wrong = wrong and self._was_certainly_wrong, wrong
        if twice or not math.isfinite(loss):
            self._said = True
            why = ", every label's probability being 0," if twice else ""
            found = "Iteration %d: the loss is %g%s and will not recover. "
            log.warning(found + REMEDY, iteration, loss, why, self._base_lr)

    def look_at_parameters(self, net: Net, iteration: int) -> None:
        """The parameters, each of which it reads: a ReLU on the CPU may hide their loss from the loss."""
        if self._said:
            return
        with net.backend.active():
            total = float(net.backend.xp.sum(net.parameters.data))
        if not math.isfinite(total):
            self._said = True
            found = "Iteration %d: parameters are no longer numbers, whatever the loss says. "
            log.warning(found + REMEDY, iteration, self._base_lr)
