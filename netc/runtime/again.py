"""Forms of the steps that compute again what memory has not kept from forward to backward."""

from __future__ import annotations

from collections.abc import Sequence

from netc.backends.form import Form
from netc.graph import Node
from netc.layer import Array


class Remembering(Form):
    """Keeps what states were before a forward that runs again later, and is to begin from there."""

    variant = "remember"
    runs_on_xp = True


class AgainForm(Form):
    """A form's forward, run once more for the backward of another, or of its own.

    original: that form. It belongs to the node whose backward needs it.
    """

    def __init__(self, original: Form, needed_by: Form) -> None:
        super().__init__(original.nodes)
        self.original = original
        self.variant = original.variant
        self.capturable, self.runs_on_xp = original.capturable, original.runs_on_xp
        self._served = needed_by.served

    @property
    def served(self) -> Node:
        return self._served


def copy_all(pairs: Sequence[tuple[Array, Array]]) -> None:
    """Copies the second of every pair into the first."""
    for target, source in pairs:
        target[...] = source
