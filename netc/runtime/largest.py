"""Says of a net that does not fit into memory which of its layers takes the most."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from netc.errors import NetcError
from netc.graph import Node


def blob_elements(node: Node) -> int:
    """The elements of a node's tops, and of what its forward leaves for backward."""
    return sum(math.prod(shape) for shape in [v.shape for v in node.outputs] + _saved_shapes(node))


def param_elements(node: Node) -> int:
    """The elements of a node's own parameters."""
    return sum(math.prod(param.shape) for param in node.params if param.owner is param)


def _saved_shapes(node: Node) -> list[tuple[int, ...]]:
    return [scratch.shape for scratch in node.layer.saved.values()]


@contextmanager
def naming_the_largest(nodes: Sequence[Node], size: Callable[[Node], int]) -> Iterator[None]:
    """Gives an error that has no place the place of the node of the greatest size."""
    try:
        yield
    except NetcError as error:
        if error.at is None and nodes:
            largest = max(nodes, key=size)
            error.at = largest.location
            error.layer = error.layer or f"{largest.name} ({largest.type}), the largest"
        raise
