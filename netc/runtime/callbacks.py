"""Functions of a user's that a net calls around the forward and backward of every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

LayerCallback = Callable[[int], Any]  # is told the layer's index


@dataclass
class LayerCallbacks:
    """What to call, in order; a layer without backward has no calls around it."""

    before_forward: list[LayerCallback] = field(default_factory=list)
    after_forward: list[LayerCallback] = field(default_factory=list)
    before_backward: list[LayerCallback] = field(default_factory=list)
    after_backward: list[LayerCallback] = field(default_factory=list)

    @property
    def around_forward(self) -> bool:
        """Whether any call is due around a layer's forward."""
        return bool(self.before_forward or self.after_forward)

    @property
    def around_backward(self) -> bool:
        """Whether any call is due around a layer's backward."""
        return bool(self.before_backward or self.after_backward)


def tell(callbacks: Iterable[LayerCallback], layer: int) -> None:
    """Calls each of them with a layer's index."""
    for callback in callbacks:
        callback(layer)
