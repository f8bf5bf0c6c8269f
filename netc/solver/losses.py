"""The losses of a run: the last one, the mean that is shown, and whether they tell that training is lost."""

from __future__ import annotations

from typing import Any

from netc.runtime import Net
from netc.solver.divergence import Divergence
from netc.solver.loss_window import LossWindow


class Losses:
    """Takes in one loss after another.

    average: over how many losses the mean goes. last: the newest.
    """

    def __init__(self, average: int, base_lr: float) -> None:
        self._average, self._divergence = average, Divergence(base_lr)
        self._window = LossWindow(average)
        self._restored = False
        self.last = 0.0

    @property
    def smoothed(self) -> float:
        """The mean."""
        return self._window.smoothed

    def begin(self) -> None:
        """A run begins: so does the mean, unless it has just been restored."""
        if not self._restored:
            self._window = LossWindow(self._average)
        self._restored = False

    def take(self, iteration: int, loss: float) -> None:
        """The loss of an iteration."""
        self.last = loss
        self._window.add(loss)
        self._divergence.look_at_loss(loss, iteration)

    def look_at_parameters(self, net: Net, iteration: int) -> None:
        """What may tell that training is lost where the losses do not."""
        self._divergence.look_at_parameters(net, iteration)

    def with_last(self, loss: float) -> float:
        """The mean with a loss after the last update, which is no iteration's."""
        return self._window.add(loss)

    def state(self) -> dict[str, Any]:
        """The mean, fit for JSON."""
        return self._window.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from the mean that `state` described, where it is one over as many losses."""
        window = LossWindow.of_state(state)
        if window.size == max(1, self._average):
            self._window, self._restored = window, True
        else:
            self.forget()

    def forget(self) -> None:
        """The next run begins a new mean."""
        self._restored = False
