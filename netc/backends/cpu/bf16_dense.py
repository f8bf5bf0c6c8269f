"""InnerProduct with factors in bfloat16, alone or with the ReLU that follows it: oneDNN's inner product.

Its weights have to be read and rounded in every pass, so bringing them into the order that the primitive
wants costs little more.
"""

from __future__ import annotations

from collections.abc import Sequence

from netc.backends.cpu.factors import Factors
from netc.backends.cpu.filters import FiltersForm, Layouts
from netc.backends.cpu.geometry import Geometry
from netc.backends.cpu.onednn import Descriptor, Engine, PrimitiveDescriptor, Refused, describe, kinds
from netc.backends.form import PLAIN, Mode
from netc.graph import Node
from netc.layer.dense import InnerProduct


class InnerProductForm(FiltersForm):
    """y = relu(x W transposed + b), where the chain ends with a ReLU, else y = x W transposed + b."""

    def __init__(self, nodes: Sequence[Node], mode: Mode, engine: Engine, geometry: Geometry) -> None:
        layouts = Layouts(PLAIN, PLAIN)
        super().__init__(nodes, mode, engine, "inner_product", geometry, layouts, packs_once=mode.holds)

    def _describe_forward(self, training: bool, factors: Factors) -> PrimitiveDescriptor:
        return describe(
            self.engine,
            "inner_product_forward",
            kinds.FORWARD_TRAINING if training else kinds.FORWARD_INFERENCE,
            factors.bottom,
            factors.weight,
            self.bias if self.biased else None,
            self.results.top,
            attributes=self._attributes(),
        )

    def _describe_backward(self, of: str, *operands: Descriptor | None) -> PrimitiveDescriptor:
        return describe(self.engine, f"inner_product_backward_{of}", *operands, self.primitive)


def make_bf16_inner_product(nodes: Sequence[Node], mode: Mode, engine: Engine) -> InnerProductForm | None:
    """The form of an inner product, and of a ReLU that can end it."""
    layer = nodes[0].layer
    assert isinstance(layer, InnerProduct)
    try:
        form = InnerProductForm(nodes, mode, engine, geometry_of(layer))
    except Refused:
        return None
    return None if form.is_slow else form


def geometry_of(layer: InnerProduct) -> Geometry:
    """The matrices' sizes: no axis is slid over."""
    rows, columns, outputs = layer.rows, layer.columns, layer.options.num_output
    strides = (1, outputs) if layer.options.transpose else (columns, 1)
    return Geometry((rows, columns), (rows, outputs), (outputs, columns), strides, (), (), (), ())
