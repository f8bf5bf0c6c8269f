"""What a backend makes of a form: steps that run without further decisions."""

from __future__ import annotations

from dataclasses import dataclass

from netc.backends.form import Form, Run
from netc.graph import Node


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a program does: `run()` works on arrays that were bound when the program was made."""

    form: Form
    direction: str  # "forward" or "backward"
    run: Run

    @property
    def node(self) -> Node:
        """The first of the nodes that it runs."""
        return self.form.node
