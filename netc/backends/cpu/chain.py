"""What makers of fast forms ask about a chain of nodes before they take it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from netc.backends.cpu.native import chained
from netc.backends.form import Run
from netc.graph import Node
from netc.layer.base import count


def fits(nodes: Sequence[Node]) -> bool:
    """Whether all of a chain computes in float32, on values that have elements."""
    values = [value for node in nodes for value in (*node.inputs, *node.outputs)]
    floats = all(node.layer.dtype == np.float32 for node in nodes)
    return floats and all(count(value.shape) for value in values)


def in_sequence(runs: Sequence[Run]) -> Run:
    """Several pieces of work as one; native calls among them that follow one another are made at once."""
    parts = chained(runs)
    if len(parts) == 1:
        return parts[0]

    def run() -> None:
        for part in parts:
            part()

    return run
