"""What an iteration computes: gradients, the update that they make, and the scale of the loss."""

from __future__ import annotations

from netc.runtime import Net
from netc.solver.loss_scale import LossScale
from netc.solver.update import Updater


class Iteration:
    """Passes over a net, each after `batches` of them followed by an update.

    loss_scale: how many times too large the gradients are, None where the math does not need that.
    """

    def __init__(self, net: Net, updater: Updater, batches: int) -> None:
        self._net, self._updater, self._batches = net, updater, batches
        self.loss_scale: LossScale | None = None
        self.begin_scaling(LossScale())

    def begin_scaling(self, scale: LossScale) -> None:
        """Scales the loss from here on, where the math needs it."""
        if self._net.scales_loss:
            self.loss_scale = scale
            self._net.scale_loss(scale.value)

    @property
    def fits_in_one(self) -> bool:
        """Whether `run` is more than its parts: where a pass and the update behind it are recorded as one.

        Of several passes the last is not: it would be recorded twice, with and without the update.
        """
        return self._updater.capturable and self._batches == 1

    def run(self, iteration: int, rate: float) -> float:
        """Gradients and update in one; the loss. `settle` comes next."""
        self._updater.prepare(iteration, rate)
        return self._net.train(self._updater.steps)

    def settle(self, iteration: int) -> None:
        """Takes in how the update of `run` went."""
        self._note(self._updater.outcome(), iteration)

    def sum_gradients(self) -> float:
        """The gradients of the batches, added to those that the net has; their mean loss."""
        return sum(self._net.forward_backward() for _ in range(self._batches)) / self._batches

    def update(self, iteration: int, rate: float) -> None:
        """One update from the gradients of now."""
        self._note(self._updater.apply(iteration, rate), iteration)

    def _note(self, applied: bool, iteration: int) -> None:
        """Sets the scale of the next pass: an update is left out where scaled gradients overflow."""
        if self.loss_scale is None:
            return
        scale = self.loss_scale.value
        self.loss_scale.note(applied, iteration)
        if self.loss_scale.value != scale:
            self._net.scale_loss(self.loss_scale.value)
