"""The loss that is shown: the mean of the last `average_loss` losses, in Caffe's arithmetic."""

from __future__ import annotations

from typing import Any


class LossWindow:
    """A running mean over the last `size` losses. `smoothed` is the mean so far."""

    def __init__(self, size: int) -> None:
        self.size = max(1, size)
        self.losses: list[float] = []
        self.count = 0  # losses seen, of which the last `size` are kept
        self.smoothed = 0.0

    def add(self, loss: float) -> float:
        """Takes in a loss and returns the new mean."""
        if len(self.losses) < self.size:
            self.losses.append(loss)
            seen = len(self.losses)
            self.smoothed = (self.smoothed * (seen - 1) + loss) / seen
        else:
            oldest = self.count % self.size
            self.smoothed += (loss - self.losses[oldest]) / self.size
            self.losses[oldest] = loss
        self.count += 1
        return self.smoothed

    def state(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        return {
            "size": self.size,
            "losses": list(self.losses),
            "count": self.count,
            "smoothed": self.smoothed,
        }

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> LossWindow:
        """The window that `state` described."""
        window = cls(int(state["size"]))
        window.losses = [float(loss) for loss in state["losses"]]
        window.count = int(state["count"])
        window.smoothed = float(state["smoothed"])
        return window
