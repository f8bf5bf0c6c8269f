"""Sums of values of one shape on oneDNN: Eltwise, alone or with a ReLU, and Split's gradients."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_float, c_void_p
from functools import partial

from netc.backends.cpu.activation import (
    add_relu_backward,
    describe_forward,
    relu_can_end,
    slope_of,
)
from netc.backends.cpu.chain import fits
from netc.backends.cpu.layout import flat_of, layout_of
from netc.backends.cpu.onednn import Attributes, Engine, Refused, Routine, describe, kinds
from netc.backends.cpu.routine_form import RoutineForm
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers
from netc.layer.eltwise import Eltwise
from netc.proto import netc_pb2 as pb


def add_sum(
    routine: Routine,
    coefficients: Sequence[float],
    sources: Sequence[str],
    target: str,
    slope: float | None = None,
) -> None:
    """target = the sum of coefficient times source, with a ReLU of this slope at the end. All lie alike."""
    values, engine = routine.operands[target], routine.engine
    if list(coefficients) == [1, 1]:
        attributes = Attributes(engine, slope=slope)
        primitive = describe(engine, "binary", kinds.ADD, *[values] * 3, attributes=attributes)
        numbers = (kinds.SOURCE, kinds.SOURCE_1)
        arguments = dict(zip(numbers, sources, strict=True))
        routine.add_as_given(primitive, {**arguments, kinds.DESTINATION: target})
        return
    scales = (c_float * len(sources))(*coefficients)
    descriptors = (c_void_p * len(sources))(*[values.address] * len(sources))
    primitive = describe(engine, "sum", values, len(sources), scales, descriptors)
    arguments = {kinds.SOURCES + i: source for i, source in enumerate(sources)}
    routine.add_as_given(primitive, {**arguments, kinds.DESTINATION: target})
    if slope is not None:
        relu = describe_forward(engine, kinds.RELU, values, slope)
        routine.add_as_given(relu, {kinds.SOURCE: target, kinds.DESTINATION: target})


class SumForm(RoutineForm):
    """y = relu(the sum of coefficient times bottom), where the chain ends with a ReLU, else the sum."""

    def __init__(self, nodes: Sequence[Node], layer: Eltwise, engine: Engine) -> None:
        super().__init__(nodes, engine)
        self.coefficients = layer.coefficients
        self.slope = slope_of(self.nodes[-1]) if len(self.nodes) > 1 else None
        layout = layout_of(self.inputs)
        self.bottom_layouts, self.top_layouts = (layout,) * len(self.inputs), (layout,)
        self.backward_bottoms: tuple[int, ...] = ()
        self.backward_tops = () if self.slope is None else (0,)
        self.values = flat_of(engine, self.inputs[0].shape, layout)
        sources = [self.forward_routine.operand(f"bottom {i}", self.values) for i in range(len(self.inputs))]
        top = self.forward_routine.operand("top", self.values)
        add_sum(self.forward_routine, self.coefficients, sources, top, self.slope)
        self._write_backward(self.backward_routine)
        self.take_workspaces()
        self.variant = f"onednn sum {layout}"

    def _write_backward(self, routine: Routine) -> None:
        gradient = routine.operand("top gradient", self.values)
        wanted = [i for i, flag in enumerate(self.input_needs_grad) if flag]
        targets = {i: routine.operand(f"bottom gradient {i}", self.values) for i in wanted}
        unscaled = [i for i in wanted if self.coefficients[i] == 1]
        if self.slope is not None:
            # Where a bottom takes the gradient as it is, that of the ReLU is written there at once.
            cut = targets[unscaled.pop(0)] if unscaled else gradient
            add_relu_backward(routine, self.slope, routine.operand("top", self.values), gradient, cut)
            wanted = [i for i in wanted if targets[i] != cut]
            gradient = cut
        for i in wanted:
            if self.coefficients[i] == 1:
                routine.reorder(gradient, targets[i])
            else:
                add_sum(routine, [self.coefficients[i]], [gradient], targets[i])

    def forward(self, b: Buffers) -> Run:
        arrays = {f"bottom {i}": array for i, array in enumerate(b.bottoms)}
        return self.forward_routine.bind({**arrays, "top": b.tops[0]}, b.workspace)

    def backward(self, b: Buffers) -> Run:
        arrays = {f"bottom gradient {i}": array for i, array in enumerate(b.bottom_grads)}
        arrays |= {"top": b.tops[0], "top gradient": b.top_grads[0]}
        return self.backward_routine.bind(arrays, b.workspace)


class SplitForm(Form):
    """The tops are the bottom; its gradient is the sum of theirs."""

    variant = "onednn sum"

    def __init__(self, node: Node, engine: Engine) -> None:
        super().__init__((node,))
        self.engine = engine
        layout = self.inputs[0].layout
        self.bottom_layouts, self.top_layouts = (layout,), (layout,) * len(self.outputs)
        self.backward_bottoms, self.backward_tops = (), ()
        self.values = flat_of(engine, self.inputs[0].shape, layout)
        routine = self._routine(list(range(len(self.outputs))))
        self.backward_workspace, self.is_slow = routine.workspace, routine.is_slow

    def forward(self, b: Buffers) -> None:
        """Nothing: the tops are the bottom's memory."""

    def backward(self, b: Buffers) -> Run | None:
        target = b.bottom_grads[0]
        if target is None:
            return None
        given = [i for i, gradient in enumerate(b.top_grads) if gradient is not None]
        if not given:
            return partial(target.fill, 0)
        arrays = {f"top gradient {i}": b.top_grads[i] for i in given}
        return self._routine(given).bind({**arrays, "bottom gradient": target}, b.workspace)

    def _routine(self, given: Sequence[int]) -> Routine:
        """The sum of the tops' gradients that there are."""
        routine = Routine(self.engine)
        target = routine.operand("bottom gradient", self.values)
        sources = [routine.operand(f"top gradient {i}", self.values) for i in given]
        if len(sources) == 1:
            routine.reorder(sources[0], target)
        else:
            add_sum(routine, [1.0] * len(sources), sources, target)
        return routine


def make_eltwise(nodes: Sequence[Node], mode: Mode, engine: Engine) -> Form | None:
    """The form of a sum and the ReLU that may follow it. In place Caffe's sum is another one."""
    layer = nodes[0].layer
    assert isinstance(layer, Eltwise)
    adds = layer.operation == pb.EltwiseParameter.SUM and not layer.runs_in_place
    if not adds or not fits(nodes) or (len(nodes) > 1 and not relu_can_end(nodes)):
        return None
    try:
        form = SumForm(nodes, layer, engine)
    except Refused:
        return None
    return None if form.is_slow else form


def make_split(nodes: Sequence[Node], mode: Mode, engine: Engine) -> Form | None:
    """The form of a split."""
    try:
        form = SplitForm(nodes[0], engine) if fits(nodes) else None
    except Refused:
        return None
    return None if form is None or form.is_slow else form


FORMS: dict[tuple[str, ...], Maker] = {
    ("Eltwise",): make_eltwise,
    ("Eltwise", "ReLU"): make_eltwise,
    ("Split",): make_split,
}
