"""Elementwise layers on oneDNN, on values in any layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from netc.backends.cpu.chain import fits
from netc.backends.cpu.layout import descriptor_of
from netc.backends.cpu.onednn import (
    Descriptor,
    Engine,
    PrimitiveDescriptor,
    Refused,
    Routine,
    describe,
    kinds,
)
from netc.backends.cpu.routine_form import RoutineForm
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers, Layer


@dataclass(frozen=True)
class Activation:
    """A function of oneDNN's: forward, and the same with the gradient from what Caffe's layer reads.

    alpha: its parameter, from the layer's options.
    """

    forward: int
    backward: int
    by_result: bool  # backward reads the top
    alpha: Callable[[Layer], float] = lambda layer: 0.0


ACTIVATIONS: Final = {
    "ReLU": Activation(kinds.RELU, kinds.RELU, False, lambda layer: layer.options.negative_slope),
    "Sigmoid": Activation(kinds.LOGISTIC, kinds.LOGISTIC_BY_RESULT, True),
    "TanH": Activation(kinds.TANH, kinds.TANH_BY_RESULT, True),
}


def describe_forward(engine: Engine, kind: int, values: Descriptor, alpha: float) -> PrimitiveDescriptor:
    """y = f(x)."""
    arguments = (kinds.FORWARD_TRAINING, kind, values, values, alpha, 0.0)
    return describe(engine, "eltwise_forward", *arguments)


def describe_backward(engine: Engine, kind: int, values: Descriptor, alpha: float) -> PrimitiveDescriptor:
    """dx = dy f'(x), or from y where the kind says so."""
    hint = describe_forward(engine, kind, values, alpha)
    return describe(engine, "eltwise_backward", kind, values, values, values, alpha, 0.0, hint)


def slope_of(relu: Node) -> float | None:
    """The negative slope of a ReLU that can end another layer's primitive; None where it cannot.

    Its gradient is then told from its top, which has the signs of its bottom unless the slope is negative.
    """
    slope: float = relu.layer.options.negative_slope
    return slope if slope >= 0 else None


def relu_can_end(nodes: Sequence[Node]) -> bool:
    """Whether the ReLU that ends a chain can tell its gradient from its top.

    In place Caffe's does so anyway, with whatever later layers left there; a top of its own must stay as it
    was made.
    """
    relu = nodes[-1]
    in_place = relu.outputs[0].memory is relu.inputs[0].memory
    return slope_of(relu) is not None and (in_place or not relu.outputs[0].is_overwritten())


def add_relu_backward(
    routine: Routine, slope: float, top: str, gradient: str, target: str | None = None
) -> None:
    """The gradient of a ReLU, told from its top; in place unless a target is named."""
    values = routine.operands[gradient]
    primitive = describe_backward(routine.engine, kinds.RELU_BY_RESULT, values, slope)
    arguments = {
        kinds.DESTINATION: top,
        kinds.DESTINATION_GRADIENT: gradient,
        kinds.SOURCE_GRADIENT: target or gradient,
    }
    routine.add_as_given(primitive, arguments)


class ActivationForm(RoutineForm):
    """y = f(x) for every element; the value keeps the layout that it has."""

    def __init__(self, nodes: Sequence[Node], mode: Mode, engine: Engine) -> None:
        super().__init__(nodes, engine)
        value = self.inputs[0]
        self.activation = activation = ACTIVATIONS[self.node.type]
        self.bottom_layouts = self.top_layouts = (value.layout,)
        values = descriptor_of(engine, value.shape, value.layout)
        alpha = activation.alpha(self.node.layer)
        primitive = describe_forward(engine, activation.forward, values, alpha)
        self.forward_routine.operand("bottom", values)
        self.forward_routine.operand("top", values)
        self.forward_routine.add_as_given(primitive, {kinds.SOURCE: "bottom", kinds.DESTINATION: "top"})
        self.read = kinds.DESTINATION if activation.by_result else kinds.SOURCE
        self.backward_bottoms = () if activation.by_result else (0,)
        self.backward_tops = (0,) if activation.by_result else ()
        for name in ("read", "top_grad", "bottom_grad"):
            self.backward_routine.operand(name, values)
        arguments = {
            self.read: "read",
            kinds.DESTINATION_GRADIENT: "top_grad",
            kinds.SOURCE_GRADIENT: "bottom_grad",
        }
        self.backward_routine.add_as_given(
            describe_backward(engine, activation.backward, values, alpha), arguments
        )
        self.take_workspaces()
        self.variant = f"onednn {primitive.implementation}"

    def forward(self, b: Buffers) -> Run:
        return self.forward_routine.bind({"bottom": b.bottoms[0], "top": b.tops[0]}, b.workspace)

    def backward(self, b: Buffers) -> Run | None:
        if b.bottom_grads[0] is None:
            return None
        arrays = {"read": b.tops[0] if self.activation.by_result else b.bottoms[0]}
        arrays |= {"top_grad": b.top_grads[0], "bottom_grad": b.bottom_grads[0]}
        return self.backward_routine.bind(arrays, b.workspace)


def make_activation(nodes: Sequence[Node], mode: Mode, engine: Engine) -> Form | None:
    """The form of one elementwise layer."""
    if not fits(nodes):
        return None
    try:
        form = ActivationForm(nodes, mode, engine)
    except Refused:
        return None
    return None if form.is_slow else form


FORMS: dict[tuple[str, ...], Maker] = {(type_,): make_activation for type_ in ACTIVATIONS}
