"""What layers keep from one pass to the next: draw counters, recurrent states."""

from __future__ import annotations

from typing import Any

from netc.backends.cpu import CpuBackend
from netc.graph import Graph
from netc.layer import Array
from netc.runtime.program import Program


class States(dict[str, Array]):
    """Arrays by "layer/state"; snapshots keep them."""

    def fit(self, graph: Graph, backend: CpuBackend, dtype: Any) -> None:
        """Makes the states that a graph's layers ask for; those of another shape begin anew, as zeros."""
        for node in graph.nodes:
            for name, scratch in node.layer.states.items():
                key = f"{node.name}/{name}"
                if key not in self or self[key].shape != scratch.shape:
                    self[key] = backend.xp.zeros(scratch.shape, scratch.dtype or dtype)

    def bind(self, program: Program) -> None:
        """Gives a program that is used again the states of now."""
        for node in program.graph.nodes:
            for name in node.layer.states:
                program.buffers[node].states[name] = self[f"{node.name}/{name}"]
