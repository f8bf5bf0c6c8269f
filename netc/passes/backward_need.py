"""Which layers run backward, and towards which bottoms and parameters: Caffe's rules.

A layer runs backward when something below it (or its own parameter) learns, and a loss lies above it. With
`force_backward` every layer that can give a gradient does, so that input gradients exist.
"""

from __future__ import annotations

from netc.errors import NetcError
from netc.graph import Graph, Node, Value


def mark_backward_need(graph: Graph) -> None:
    """Sets `needs_backward`, `input_needs_grad` and `param_needs_grad` of every node, in place.

    Raises NetcError where a loss depends on a learned layer only through one that has no gradient.
    """
    learns = _learning_from_below(graph)
    _keep_what_a_loss_needs(graph, learns)
    if graph.force_backward:
        _force(graph)


def _learning_from_below(graph: Graph) -> set[Value]:
    """First sweep, upwards: the values that some learning parameter feeds."""
    learns: set[Value] = set()
    for node in graph.nodes:
        stated = list(node.layer.spec.propagate_down)
        if len(stated) not in (0, len(node.inputs)):
            raise node.layer.error(
                "propagate_down must be given for every bottom or for none",
                "propagate_down",
                expected=len(node.inputs),
                found=len(stated),
            )
        node.input_needs_grad = stated or [value in learns for value in node.inputs]
        node.param_needs_grad = [param.owner.lr_mult != 0 for param in node.params]
        if any(value in learns for value in node.inputs) or any(node.param_needs_grad):
            node.needs_backward = True
            learns.update(node.outputs)
    return learns


def _keep_what_a_loss_needs(graph: Graph, learns: set[Value]) -> None:
    """Second sweep, downwards: only what lies under a loss, and not behind bottoms that pass nothing on."""
    under_loss: set[Value] = set()
    cut_off: set[Value] = set()
    for node in reversed(graph.nodes):
        contributes = any(value.loss_weight or value in under_loss for value in node.outputs)
        if node.outputs and all(value in cut_off for value in node.outputs):
            node.needs_backward = False
        if not contributes:
            node.needs_backward = False
        for i, value in enumerate(node.inputs):
            if contributes:
                under_loss.add(value)
            wanted = node.needs_backward and node.input_needs_grad[i]
            if wanted and not node.layer.gives_gradient(i):
                _reject(node, value, learns)
                wanted = False
            node.input_needs_grad[i] = wanted
            if not wanted:
                cut_off.add(value)


def _reject(node: Node, value: Value, learns: set[Value]) -> None:
    """A gradient is wanted from a layer that has none to give."""
    if value not in learns:  # asked for by propagate_down alone
        return
    raise NetcError(
        f"a {node.type} layer gives no gradient to its bottom {value.name!r}, but a loss depends on it",
        at=node.location,
        layer=f"{node.name} ({node.type})",
        blob=value.name,
        remedy="state `propagate_down: false` for this bottom, or take the layer out of the path to the loss",
    )


def _force(graph: Graph) -> None:
    for node in graph.nodes:
        node.needs_backward = node.layer.differentiable and bool(node.inputs or node.params)
        node.input_needs_grad = [
            wanted or (node.needs_backward and node.layer.gives_gradient(i))
            for i, wanted in enumerate(node.input_needs_grad)
        ]
        node.param_needs_grad = [True] * len(node.params)
