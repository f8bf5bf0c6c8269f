"""InnerProduct: every output sees every input."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from netc.layer.base import Array, Buffers, Layer, ParamBlob, Shape, count
from netc.layer.registry import register

BLOCK_BYTES: Final = 4 << 20  # of a weight gradient at a time, so that no second copy of a large one is made


@register
class InnerProduct(Layer):
    """y = x W transposed + b, for x as a matrix (M, D): the axes before `axis` are its rows, the others its
    columns.

    Shapes: (..., D's axes) to (..., num_output). Parameters: W (num_output, D), or (D, num_output) with
    `transpose`; b (num_output) unless `bias_term` is false. (Rosenblatt, "The perceptron", 1958)
    """

    type = "InnerProduct"
    options_field = "inner_product_param"
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape, outputs = bottoms[0], self.options.num_output
        axis = self.canonical_axis(self.options.axis, len(shape))
        if outputs < 1:
            raise self.error(
                "num_output must be at least 1", "num_output", expected="at least 1", found=outputs
            )
        self.rows, self.columns = count(shape[:axis]), count(shape[axis:])
        weight = (self.columns, outputs) if self.options.transpose else (outputs, self.columns)
        self.params = [ParamBlob(weight, self.option("weight_filler"))]
        if self.options.bias_term:
            self.params.append(ParamBlob((outputs,), self.option("bias_filler")))
        return [(*shape[:axis], outputs)]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        weight = b.params[0] if self.options.transpose else b.params[0].T
        y = b.tops[0].reshape(self.rows, self.options.num_output)
        xp.matmul(b.bottoms[0].reshape(self.rows, self.columns), weight, out=y)
        if self.options.bias_term:
            y += b.params[1]

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dy: Array = b.top_grads[0]
        dy = dy.reshape(self.rows, self.options.num_output)
        x, dx, dweight = b.bottoms[0].reshape(self.rows, self.columns), b.bottom_grads[0], b.param_grads[0]
        if dweight is not None:
            left, right = (x, dy) if self.options.transpose else (dy, x)
            block = max(1, BLOCK_BYTES // (4 * right.shape[1]))
            for start in range(0, left.shape[1], block):
                part = slice(start, start + block)
                dweight[part] += xp.matmul(left[:, part].T, right)
        if self.options.bias_term and b.param_grads[1] is not None:
            b.param_grads[1] += dy.sum(axis=0)  # type: ignore[operator]
        if dx is not None:
            weight = b.params[0].T if self.options.transpose else b.params[0]
            xp.matmul(dy, weight, out=dx.reshape(self.rows, self.columns))
