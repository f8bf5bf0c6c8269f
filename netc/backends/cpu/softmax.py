"""Softmax on oneDNN, for values in the layout that they have."""

from __future__ import annotations

from collections.abc import Sequence

from netc.backends.cpu.chain import fits
from netc.backends.cpu.layout import descriptor_of
from netc.backends.cpu.onednn import Descriptor, Engine, PrimitiveDescriptor, Refused, describe, kinds
from netc.backends.cpu.routine_form import RoutineForm
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers
from netc.layer.softmax import Softmax


class SoftmaxForm(RoutineForm):
    """y_k = exp(x_k) / sum_j exp(x_j) along one axis."""

    def __init__(self, node: Node, layer: Softmax, mode: Mode, engine: Engine) -> None:
        super().__init__((node,), engine)
        value = self.inputs[0]
        self.bottom_layouts = self.top_layouts = (value.layout,)
        self.backward_bottoms, self.backward_tops = (), (0,)
        values = descriptor_of(engine, value.shape, value.layout)
        primitive = describe(
            engine,
            "softmax_forward",
            *(kinds.FORWARD_TRAINING, kinds.SOFTMAX, values, values, layer.axis),
        )
        for name in ("bottom", "top"):
            self.forward_routine.operand(name, values)
        self.forward_routine.add_as_given(primitive, {kinds.SOURCE: "bottom", kinds.DESTINATION: "top"})
        if mode.backward and self.needs_backward:
            self._write_backward(values, layer.axis, primitive)
        self.take_workspaces()
        self.variant = f"onednn {primitive.implementation} {value.layout}"

    def _write_backward(self, values: Descriptor, axis: int, hint: PrimitiveDescriptor) -> None:
        for name in ("top", "top gradient", "bottom gradient"):
            self.backward_routine.operand(name, values)
        self.backward_routine.add_as_given(
            describe(self.engine, "softmax_backward", kinds.SOFTMAX, *[values] * 3, axis, hint),
            {
                kinds.DESTINATION: "top",
                kinds.DESTINATION_GRADIENT: "top gradient",
                kinds.SOURCE_GRADIENT: "bottom gradient",
            },
        )

    def forward(self, b: Buffers) -> Run:
        return self.forward_routine.bind({"bottom": b.bottoms[0], "top": b.tops[0]}, b.workspace)

    def backward(self, b: Buffers) -> Run | None:
        if b.bottom_grads[0] is None:
            return None
        arrays = {"top": b.tops[0], "top gradient": b.top_grads[0], "bottom gradient": b.bottom_grads[0]}
        return self.backward_routine.bind(arrays, b.workspace)


def make_softmax(nodes: Sequence[Node], mode: Mode, engine: Engine) -> Form | None:
    """The form of a softmax."""
    layer = nodes[0].layer
    assert isinstance(layer, Softmax)
    if not fits(nodes):
        return None
    try:
        form = SoftmaxForm(nodes[0], layer, mode, engine)
    except Refused:
        return None
    return None if form.is_slow else form


FORMS: dict[tuple[str, ...], Maker] = {("Softmax",): make_softmax}
