"""What a layer costs: its parameters, its multiply-adds forward and backward, the values that it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from netc.graph import Graph, Node, Param, Value
from netc.layer import Shape
from netc.layer.base import count


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


def multiply_adds(node: Node) -> int:
    """The multiplications by weights of one forward pass; adding a bias is none.

    Layers without a row in the table (pooling, activations, normalisation, losses) count as nothing, as in
    the tables of lectures and papers.
    """
    rule = MULTIPLY_ADDS.get(node.type)
    return rule(node) if rule and node.params else 0


def _backward(node: Node, learned: list[Param], learns: set[Value]) -> int:
    """Each of the two gradients, that of the weights and that of the bottom, costs what forward does."""
    forward = multiply_adds(node)
    weights = any(param.index == 0 for param in learned)
    return forward * (int(weights) + int(any(value in learns for value in node.inputs)))


def _weight(node: Node) -> Shape:
    return node.params[0].shape


def _sliding(node: Node) -> int:
    """Every output position meets every weight of its filter once."""
    filters = _weight(node)[0]
    return sum(count(value.shape) // filters * count(_weight(node)) for value in node.outputs)


def _transposed(node: Node) -> int:
    """Every input position meets every weight of its channel once."""
    channels = _weight(node)[0]
    return sum(count(value.shape) // channels * count(_weight(node)) for value in node.inputs)


def _dense(node: Node) -> int:
    outputs = node.layer.spec.inner_product_param.num_output
    return count(node.outputs[0].shape) // outputs * count(_weight(node))


def _recurrent(node: Node) -> int:
    """Every step of every stream meets every weight matrix."""
    steps, streams = node.inputs[0].shape[:2]
    return steps * streams * sum(count(param.shape) for param in node.params if len(param.shape) > 1)


def _each_value(node: Node) -> int:
    return count(node.outputs[0].shape)


MULTIPLY_ADDS: Final[Mapping[str, Callable[[Node], int]]] = {
    "Convolution": _sliding,
    "ConvolutionDepthwise": _sliding,
    "Deconvolution": _transposed,
    "DepthwiseConvolution": _sliding,
    "InnerProduct": _dense,
    "LSTM": _recurrent,
    "RNN": _recurrent,
    "Scale": _each_value,
}
