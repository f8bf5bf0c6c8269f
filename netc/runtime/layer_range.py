"""Ranges of a net's layers: from names to places, from places to nodes."""

from __future__ import annotations

from collections.abc import Sequence

from netc.errors import NetcError
from netc.graph import Graph, Node


def places_of(names: Sequence[str], first: str | None, last: str | None) -> tuple[int, int]:
    """The places of two layers, by default the first and the last of all; of equal names, the range's ends.

    Raises NetcError where there is no layer of a name.
    """
    for name in (first, last):
        if name is not None and name not in names:
            raise NetcError(f"the net has no layer {name!r}", expected=", ".join(names))
    begin = names.index(first) if first is not None else 0
    end = len(names) - 1 - names[::-1].index(last) if last is not None else len(names) - 1
    return begin, end


def nodes_of(graph: Graph, first: int, last: int) -> list[Node] | None:
    """The nodes of these places, both included; None for all of them."""
    whole = first == 0 and last == len(graph.nodes) - 1
    return None if whole else graph.nodes[first : last + 1]
