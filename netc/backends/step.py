"""What a backend makes of a form: steps that run without further decisions."""

from __future__ import annotations

from dataclasses import dataclass

from netc.backends.form import Form, Run
from netc.errors import NetcError
from netc.graph import Node


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a program does: `run()` works on arrays that were bound when the program was made."""

    form: Form
    direction: str  # "forward", "backward" or, of what is no node's, "update"
    run: Run

    @property
    def node(self) -> Node:
        """The first of the nodes that it runs."""
        return self.form.node


class ArenaForm(Form):
    """Work on the arenas of all parameters at once, which is no node's: clearing gradients, an update."""

    def __init__(self, variant: str, *, capturable: bool = True, runs_on_xp: bool = False) -> None:
        self.nodes = ()
        self.variant, self.capturable, self.runs_on_xp = variant, capturable, runs_on_xp


# What a step may raise: an error that says what is wrong, and those that come of blobs without elements.
STEP_ERRORS = (NetcError, ValueError, IndexError, ZeroDivisionError)


def explain(error: Exception, step: Step | None) -> None:
    """Says at which layer an error came up, where it does not say so itself.

    Raises NetcError in its place where a layer cannot work on a blob without elements.
    """
    node = next(iter(step.form.nodes), None) if step else None
    if node is None:
        return
    layer = f"{node.name} ({node.type})"
    if isinstance(error, NetcError):
        error.at = error.at or node.location
        error.layer = error.layer or layer
        return
    empty = next((value for value in (*node.inputs, *node.outputs) if 0 in value.shape), None)
    if empty and node.type != "Python":
        raise NetcError(
            "the layer cannot work on a blob without elements",
            at=node.location,
            layer=layer,
            blob=empty.name,
            found=list(empty.shape),
        ) from error
