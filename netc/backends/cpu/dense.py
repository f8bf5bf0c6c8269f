"""InnerProduct on oneDNN's matrix product, alone or with the ReLU that follows it.

The weights are used as they lie: putting a large matrix into another order in every pass would take longer
than multiplying by it, and a product can add to the gradients where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from netc.backends.cpu.activation import add_relu_backward, describe_forward, relu_can_end, slope_of
from netc.backends.cpu.chain import fits, in_sequence
from netc.backends.cpu.layout import descriptor_of
from netc.backends.cpu.onednn import Engine, Product, Refused, Routine, kinds
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Array, Buffers
from netc.layer.dense import InnerProduct


class DenseForm(Form):
    """y = relu(x W transposed + b), where the chain ends with a ReLU, else y = x W transposed + b."""

    variant = "onednn sgemm"
    writes_fresh = True

    def __init__(self, nodes: Sequence[Node], layer: InnerProduct, engine: Engine) -> None:
        super().__init__(nodes)
        self.engine = engine
        self.transposed = layer.options.transpose
        self.bottom_shape = (layer.rows, layer.columns)
        self.top_shape = (layer.rows, layer.options.num_output)
        self.biased = len(self.params) > 1
        self.slope = slope_of(self.nodes[-1]) if len(self.nodes) > 1 else None
        self.backward_bottoms = (0,) if self.param_needs_grad[0] else ()
        self.backward_tops: tuple[int, ...] = ()
        self.relu, self.relu_backward = Routine(engine), Routine(engine)
        if self.slope is not None:
            self._write_relu(self.slope)
        self.forward_workspace = self.relu.workspace
        self.backward_workspace = self.relu_backward.workspace

    def _write_relu(self, slope: float) -> None:
        self.backward_tops = (0,)
        values = descriptor_of(self.engine, self.top_shape)
        top = self.relu.operand("top", values)
        primitive = describe_forward(self.engine, kinds.RELU, values, slope)
        self.relu.add_as_given(primitive, {kinds.SOURCE: top, kinds.DESTINATION: top})
        self.relu_backward.operand("top", values)
        add_relu_backward(
            self.relu_backward, slope, "top", self.relu_backward.operand("top gradient", values)
        )

    def forward(self, b: Buffers) -> Run:
        x, y, weight = self._matrices(b.bottoms[0], b.tops[0], b.params[0])
        steps: list[Run] = []
        if self.biased:
            steps.append(partial(np.copyto, y, b.params[1]))
        steps.append(Product(self.engine, x, weight.T, y, add=self.biased))
        if self.slope is not None:
            steps.append(self.relu.bind({"top": b.tops[0]}, b.workspace))
        return in_sequence(steps)

    def backward(self, b: Buffers) -> Run:
        gradient: Array = b.top_grads[0]
        x, dy, weight = self._matrices(b.bottoms[0], gradient, b.params[0])
        steps: list[Run] = []
        if self.slope is not None:
            steps.append(self.relu_backward.bind({"top": b.tops[0], "top gradient": dy}, b.workspace))
        if (dweight := b.param_grads[0]) is not None:
            sides = (x.T, dy) if self.transposed else (dy.T, x)
            steps.append(Product(self.engine, *sides, dweight, add=not self.fresh[0]))
        if self.biased and (dbias := b.param_grads[1]) is not None:
            ones = np.ones((len(dy), 1), np.float32)
            steps.append(Product(self.engine, dy.T, ones, dbias.reshape(-1, 1), add=not self.fresh[1]))
        if (dx := b.bottom_grads[0]) is not None:
            steps.append(Product(self.engine, dy, weight, dx.reshape(self.bottom_shape)))
        return in_sequence(steps)

    def flops(self) -> int:
        return 2 * self.top_shape[0] * self.top_shape[1] * self.bottom_shape[1]

    def _matrices(self, x: Array, y: Array, weight: Array) -> tuple[Array, Array, Array]:
        """x (M, D), y or its gradient (M, K), and the weights as (K, D)."""
        weight = weight.T if self.transposed else weight
        return x.reshape(self.bottom_shape), y.reshape(self.top_shape), weight


def make_inner_product(nodes: Sequence[Node], mode: Mode, engine: Engine) -> Form | None:
    """The form of an inner product and the ReLU that may follow it."""
    layer = nodes[0].layer
    assert isinstance(layer, InnerProduct)
    if not fits(nodes) or (len(nodes) > 1 and not relu_can_end(nodes)):
        return None
    try:
        return DenseForm(nodes, layer, engine)
    except Refused:
        return None


FORMS: dict[tuple[str, ...], Maker] = {
    ("InnerProduct",): make_inner_product,
    ("InnerProduct", "ReLU"): make_inner_product,
}
