"""Which form runs which nodes: the longest chain of a backend's table that fits, else the layer's own
meaning."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

from netc.backends.backend import Backend
from netc.backends.form import PLAIN, Form, Mode, ReferenceForm
from netc.backends.layout import insert_reorder, is_shown, lay_out, mark_plain, plainest
from netc.errors import NetcError
from netc.graph import Graph, Node, Param, Value


def select_forms(graph: Graph, backend: Backend, mode: Mode, fuse: bool) -> list[Form]:
    """One form for each chain of nodes, in the order of the graph, and between them the reorders that their
    layouts need.

    fuse: whether a form may run several nodes; the values between them then have no memory.
    """
    if mode.fresh:
        _mark_fresh(graph)
    mark_plain(graph, backend)
    if backend.rehearses:
        _rehearse(graph, backend, replace(mode, rehearsal=True), fuse)
    forms: list[Form] = []
    place = 0
    while place < len(graph.nodes):
        form = _longest(graph, place, backend, mode, fuse)
        if _gives_another_layout(form):  # it keeps to what it is given: give it plain values
            forms += _reorders(form, [PLAIN] * len(form.inputs), backend)
            form = _longest(graph, place, backend, mode, fuse)
        forms += _reorders(form, _layouts(form.bottom_layouts, form.inputs), backend)
        layouts = _layouts(form.top_layouts, form.outputs)
        for node in form.nodes[:-1]:  # what follows in place lies in the memory of these
            lay_out(node.outputs[0], layouts[0], backend)
        for value, layout in zip(form.outputs, layouts, strict=True):
            lay_out(value, layout, backend)
        forms.append(form)
        place += len(form.nodes)
    return forms


def _rehearse(graph: Graph, backend: Backend, mode: Mode, fuse: bool) -> None:
    """Makes all forms to no other end than that what they need is made ready at the same time.

    No reorders are put in: every form is taken to be given what it asks for.
    """
    place = 0
    with suppress(NetcError), backend.preparing():  # what is wrong shows again when they are made in earnest
        while place < len(graph.nodes):
            form = _longest(graph, place, backend, mode, fuse)
            place += len(form.nodes)
            for value, layout in zip(form.outputs, _layouts(form.top_layouts, form.outputs), strict=True):
                value.layout = plainest(value, layout, backend)
    for value in graph.values():
        value.layout = PLAIN


def _mark_fresh(graph: Graph) -> None:
    """Notes which nodes are the first, in the order of backward, to give each parameter's gradient."""
    given: set[Param] = set()
    for node in reversed(graph.nodes):
        node.fresh_grads = [False] * len(node.params)
        for index, (param, wanted) in enumerate(zip(node.params, node.param_needs_grad, strict=True)):
            if node.needs_backward and wanted and param.owner not in given:
                given.add(param.owner)
                node.fresh_grads[index] = True


def _longest(graph: Graph, place: int, backend: Backend, mode: Mode, fuse: bool) -> Form:
    """The form of the longest chain that begins at this place."""
    nodes = graph.nodes
    longest = max(map(len, backend.forms), default=1) if fuse else 1
    for length in range(min(longest, len(nodes) - place), 0, -1):
        chain = nodes[place : place + length]
        maker = backend.forms.get(tuple(node.type for node in chain))
        if maker is None or not is_chain(graph, chain):
            continue
        plain = any(value.lies_plain for value in chain[-1].outputs)
        if form := backend.form(maker, chain, replace(mode, layout=PLAIN) if plain else mode):
            return form
    return ReferenceForm(nodes[place], backend.xp)


def _gives_another_layout(form: Form) -> bool:
    """Whether a form gives a value that lies plain in another layout."""
    layouts = _layouts(form.top_layouts, form.outputs)
    return any(
        layout != PLAIN and value.lies_plain for value, layout in zip(form.outputs, layouts, strict=True)
    )


def is_chain(graph: Graph, nodes: Sequence[Node]) -> bool:
    """Whether each node's one output is read by the next node alone, and nobody else wants it; and whether
    either all of them run backward or none."""
    for node, following in pairwise(nodes):
        if len(node.outputs) != 1 or node.needs_backward != following.needs_backward:
            return False
        value = node.outputs[0]
        if value.consumers != [following]:
            return False
        if is_shown(graph, value):
            return False
    return True


def _reorders(form: Form, layouts: Sequence[str], backend: Backend) -> list[Form]:
    """The forms that bring a form's bottoms into these layouts."""
    reorders: list[Form] = []
    for index, layout in enumerate(layouts):
        value = form.inputs[index]
        if backend.lie_alike(value.shape, value.layout, layout):
            continue
        consumer = next(node for node in form.nodes if value in node.inputs)
        node, form.inputs[index] = insert_reorder(value, consumer, layout, backend)
        reorders.append(backend.reorder(node, served=consumer))
    return reorders


def _layouts(layouts: Sequence[str] | None, values: Sequence[Value]) -> Sequence[str]:
    return [PLAIN] * len(values) if layouts is None else layouts
