"""Which form runs which nodes: the longest chain of a backend's table that fits, else the layer's own meaning."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from netc.backends.backend import Backend
from netc.backends.form import Form, Mode, ReferenceForm
from netc.graph import Graph, Node


def select_forms(graph: Graph, backend: Backend, mode: Mode, fuse: bool) -> list[Form]:
    """One form for each chain of nodes, in the order of the graph.

    fuse: whether a form may run several nodes; the values between them then have no memory.
    """
    forms: list[Form] = []
    place = 0
    while place < len(graph.nodes):
        form = _longest(graph, place, backend, mode, fuse)
        forms.append(form)
        place += len(form.nodes)
    return forms


def _longest(graph: Graph, place: int, backend: Backend, mode: Mode, fuse: bool) -> Form:
    """The form of the longest chain that begins at this place."""
    nodes = graph.nodes
    longest = max(map(len, backend.forms), default=1) if fuse else 1
    for length in range(min(longest, len(nodes) - place), 0, -1):
        chain = nodes[place : place + length]
        maker = backend.forms.get(tuple(node.type for node in chain))
        if maker is None or not is_chain(graph, chain):
            continue
        if form := backend.form(maker, chain, mode):
            return form
    return ReferenceForm(nodes[place], backend.xp)


def is_chain(graph: Graph, nodes: Sequence[Node]) -> bool:
    """Whether each node's one output is read by the next node alone, as its first input, and nobody else wants
    it; and whether either all of them run backward or none."""
    for node, following in pairwise(nodes):
        if len(node.outputs) != 1 or node.needs_backward != following.needs_backward:
            return False
        value = node.outputs[0]
        if value.consumers != [following] or following.inputs[0] is not value:
            return False
        if value.loss_weight or value in graph.outputs:
            return False
    return True
