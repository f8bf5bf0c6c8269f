"""How much a layer computes: the multiplications by weights of a pass forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from netc.graph import Node
from netc.layer import Shape
from netc.layer.base import count

FLOPS_PER_MULTIPLY_ADD: Final = 2


def multiply_adds(node: Node) -> int:
    """The multiplications by weights of one forward pass; adding a bias is none.

    Layers without a row in the table (pooling, activations, normalisation, losses) count as nothing, as in
    the tables of lectures and papers.
    """
    rule = MULTIPLY_ADDS.get(node.type)
    return rule(node) if rule and node.params else 0


def backward_multiply_adds(node: Node) -> int:
    """Those of the backward pass that this graph asks for: each of the two gradients, that of the weights and
    that of the bottom, costs what forward does."""
    gradients = any(node.param_needs_grad[:1]) + any(node.input_needs_grad)
    return multiply_adds(node) * gradients if node.needs_backward else 0


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
