"""InnerProduct on the device: matrix products, with the bias and a ReLU in the first one's epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from netc.backends.cuda.device import Device, Product
from netc.backends.cuda.device.form import DeviceForm, fits
from netc.backends.cuda.launching import in_order
from netc.backends.cuda.layers.activation import prepare_backward
from netc.backends.cuda.layers.reduce import Sums, sum_channels
from netc.backends.cuda.products.choice import choose_product
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers, Scratch


class InnerProduct(DeviceForm):
    """y = relu(x W transposed + b), with x (M, D) and W (K, D), or (D, K) where it is transposed."""

    variant = "gemm"

    def __init__(self, nodes: Sequence[Node], mode: Mode, device: Device) -> None:
        super().__init__(nodes, device)
        layer = self.node.layer
        self.rows, self.columns = layer.rows, layer.columns  # type: ignore[attr-defined]
        self.filters: int = layer.options.num_output
        self.transposed: bool = layer.options.transpose
        self.has_bias: bool = layer.options.bias_term
        self.slope: float | None = None
        self.sums = Sums.plan(device, "dy", self.rows, self.filters, 1)
        self.backward_workspace = dict(self.sums.workspace) if self.has_bias else {}
        if len(nodes) > 1:
            self.variant = "gemm, ReLU"
            self.slope = nodes[1].layer.options.negative_slope
            self.backward_tops = (0,)
            self.backward_workspace["dy"] = Scratch((self.rows, self.filters), np.float32)
        self._choose_products(mode)

    def _choose_products(self, mode: Mode) -> None:
        """y = x W transposed; dW += dy transposed x, or x transposed dy where W is transposed; dx = dy W."""
        rows, columns, filters = self.rows, self.columns, self.filters
        bias = "column" if self.has_bias else None
        choose = partial(choose_product, self.device, mode)
        relu, trans_b = self.slope, not self.transposed
        self._forward = choose(
            Product(rows, filters, columns, trans_b=trans_b, math=mode.math, bias=bias, relu=relu)
        )
        if mode.backward and self.param_needs_grad[0]:
            m, n = (columns, filters) if self.transposed else (filters, columns)
            self._backward_weight = choose(Product(m, n, rows, trans_a=True, beta=1, math=mode.math))
        if mode.backward and self.input_needs_grad[0]:
            self._backward_data = choose(
                Product(rows, columns, filters, trans_b=self.transposed, math=mode.math)
            )

    def forward(self, b: Buffers) -> Run | None:
        x, weight, y = map(self.memory, (b.bottoms[0], b.params[0], b.tops[0]))
        bias = self.memory(b.params[1]) if self.has_bias else None
        return self._forward(x, weight, y, bias)

    def backward(self, b: Buffers) -> Run | None:
        dy = self.memory(b.top_grads[0])
        runs: list[Run | None] = []
        if self.slope is not None:
            y, masked = self.memory(b.tops[0]), self.memory(b.workspace["dy"])
            runs.append(prepare_backward(self.device, "ReLU", y, None, dy, masked, (self.slope,)))
            dy = masked
        if b.param_grads[0] is not None:
            factors = (dy, self.memory(b.bottoms[0]))
            factors = factors[::-1] if self.transposed else factors
            runs.append(self._backward_weight(*factors, self.memory(b.param_grads[0]), None))
        if self.has_bias and b.param_grads[1] is not None:
            shares = self.memory_if(b.workspace.get("shares"))
            runs.append(sum_channels(self.device, self.sums, dy, None, shares, self.memory(b.param_grads[1])))
        if b.bottom_grads[0] is not None:
            weight, dx = self.memory(b.params[0]), self.memory(b.bottom_grads[0])
            runs.append(self._backward_data(dy, weight, dx, None))
        return in_order(*runs)

    def flops(self) -> int:
        return 2 * self.rows * self.columns * self.filters


def make_inner_product(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    return InnerProduct(nodes, mode, device) if fits(nodes) else None


def make_inner_product_relu(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    """None where the slope cannot be told from the ReLU's output."""
    relu = nodes[1].layer
    told = relu.runs_in_place or not nodes[1].outputs[0].is_overwritten()
    return make_inner_product(nodes, mode, device) if told and relu.options.negative_slope >= 0 else None


FORMS: dict[tuple[str, ...], Maker] = {
    ("InnerProduct",): make_inner_product,
    ("InnerProduct", "ReLU"): make_inner_product_relu,
}
