"""What a backend makes of a node: steps that run without further decisions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from netc.graph import Node


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a program does: `run()` works on arrays that were bound when the program was made."""

    node: Node
    direction: str  # "forward" or "backward"
    variant: str  # which row of the backend's table made it
    run: Callable[[], None]
