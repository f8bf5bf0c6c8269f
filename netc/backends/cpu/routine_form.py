"""Forms whose work is one routine of oneDNN's in each direction."""

from __future__ import annotations

from collections.abc import Sequence

from netc.backends.cpu.onednn import Engine, Routine
from netc.backends.form import Form
from netc.graph import Node


class RoutineForm(Form):
    """A subclass writes `forward_routine` and `backward_routine`, then calls `take_workspaces`."""

    def __init__(self, nodes: Sequence[Node], engine: Engine) -> None:
        super().__init__(nodes)
        self.engine = engine
        self.forward_routine, self.backward_routine = Routine(engine), Routine(engine)

    def take_workspaces(self) -> None:
        """Asks for the memory that the routines work in."""
        self.forward_workspace = self.forward_routine.workspace
        self.backward_workspace = self.backward_routine.workspace

    @property
    def is_slow(self) -> bool:
        """Whether oneDNN would compute any part of it with its fallback."""
        return self.forward_routine.is_slow or self.backward_routine.is_slow
