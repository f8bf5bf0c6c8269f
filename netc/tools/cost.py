"""What a layer costs: its parameters, its multiply-adds forward and backward, the values that it makes."""

from __future__ import annotations

from dataclasses import dataclass

from netc.graph import Graph, Node, Param, Value
from netc.layer.base import count
from netc.passes.work import multiply_adds


@dataclass(frozen=True)
class Cost:
    """Of one node: parameters that it owns, multiply-adds of one pass, values that get memory of their own.

    The backward figures are those of training from scratch: a gradient for every parameter whose lr_mult is
    not 0, and for every bottom that such a parameter feeds.
    """

    parameters: int = 0
    multiply_adds: int = 0
    backward_multiply_adds: int = 0
    values: int = 0
    gradient_values: int = 0


def graph_costs(graph: Graph) -> dict[Node, Cost]:
    """The cost of every node, whether or not this graph has a loss."""
    learns: set[Value] = set()
    costs = {}
    for node in graph.nodes:
        learned = [param for param in node.params if param.owner.lr_mult != 0]
        passes_on = any(value in learns for value in node.inputs)
        if learned or passes_on:
            learns.update(node.outputs)
        own = [value for value in node.outputs if value.memory is value]
        costs[node] = Cost(
            parameters=sum(count(param.shape) for param in node.params if param.owner is param),
            multiply_adds=multiply_adds(node),
            backward_multiply_adds=_backward(node, learned, learns),
            values=sum(count(value.shape) for value in own),
            gradient_values=sum(count(value.shape) for value in own if value in learns),
        )
    return costs


def _backward(node: Node, learned: list[Param], learns: set[Value]) -> int:
    """Each of the two gradients, that of the weights and that of the bottom, costs what forward does."""
    forward = multiply_adds(node)
    weights = any(param.index == 0 for param in learned)
    return forward * (int(weights) + int(any(value in learns for value in node.inputs)))
