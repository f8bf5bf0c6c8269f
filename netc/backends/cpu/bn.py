"""BatchNorm with the Scale, the sum with a residual and the ReLU that may follow it: on oneDNN, but channels
last in loops of our own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np

from netc.backends.cpu.bn_loop_form import BatchNormLoopForm, loop_form
from netc.backends.cpu.chain import fits, in_sequence
from netc.backends.cpu.layout import descriptor_of
from netc.backends.cpu.normalisation import Normalisation, take_global, take_in
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
from netc.backends.normalising import STATISTICS
from netc.graph import Node
from netc.layer import Array, Buffers, Scratch


class BatchNormForm(RoutineForm):
    """A normalisation; the value keeps the layout that it has.

    in_place: whether the top is written over the bottom, which is then saved for backward.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        mode: Mode,
        engine: Engine,
        what: Normalisation,
        layout: str,
        in_place: bool,
    ) -> None:
        super().__init__(nodes, engine)
        self.what = what
        # The statistics have no gradients: where some are wanted all the same, they must be zeroed before.
        self.writes_fresh = not any(self.param_needs_grad[:STATISTICS])
        self.training = mode.backward and self.needs_backward
        self.keeps_bottom = in_place and self.training and any((*self.input_needs_grad, self._learns))
        self.bottom_layouts = self.top_layouts = (layout,)
        self.values = descriptor_of(engine, self.inputs[0].shape, layout)
        self.channels = Descriptor.strided(engine, what.layer.params[0].shape)
        self.primitive = self._describe_forward()
        self.saved = self._saved()
        self._write_forward(self.forward_routine)
        if self.training:
            self._write_backward(self.backward_routine)
        self.take_workspaces()
        self.backward_bottoms = () if self.keeps_bottom or not self.training else (0,)
        self.backward_tops: tuple[int, ...] = ()
        self.variant = f"onednn {self.primitive.implementation} {layout}"

    @property
    def _learns(self) -> bool:
        """Whether the scale's or the shift's gradient is wanted."""
        return any(self.param_needs_grad[place] for place in (self.what.scale, self.what.shift) if place)

    def _describe_forward(self) -> PrimitiveDescriptor:
        kind = (
            kinds.FORWARD_TRAINING if self.training or self.what.layer.from_batch else kinds.FORWARD_INFERENCE
        )
        values = (kind, self.values, self.values, self.what.layer.options.eps, self.what.flags)
        return describe(self.engine, "batch_normalization_forward", *values)

    def _saved(self) -> dict[str, Scratch]:
        saved = {name: Scratch(self.what.layer.params[0].shape) for name in ("mean", "variance")}
        if self.keeps_bottom:
            saved["bottom"] = Scratch((self.values.nbytes,), np.uint8)
        if self._marks_zeros:
            saved["marks"] = Scratch((self.primitive.argument(kinds.WORKSPACE).nbytes,), np.uint8)
        return saved

    @property
    def _marks_zeros(self) -> bool:
        """Whether forward leaves behind where the ReLU cut."""
        training = self.training or self.what.layer.from_batch
        return self.what.relu and training

    def _write_forward(self, routine: Routine) -> None:
        bottom = routine.operand("bottom", self.values)
        if self.keeps_bottom:
            kept = routine.operand("kept", self.values)
            routine.reorder(bottom, kept)
            bottom = kept
        arguments = {kinds.SOURCE: bottom, kinds.DESTINATION: routine.operand("top", self.values)}
        routine.add_as_given(self.primitive, arguments | self._operands(routine))

    def _write_backward(self, routine: Routine) -> None:
        what = self.what
        kind = kinds.BACKWARD if self._learns else kinds.BACKWARD_DATA
        values = (kind, *[self.values] * 3, what.layer.options.eps, what.flags, self.primitive)
        primitive = describe(self.engine, "batch_normalization_backward", *values)
        arguments = self._operands(routine)
        arguments.pop(kinds.SHIFT, None)
        arguments[kinds.SOURCE] = routine.operand("bottom", self.values)
        arguments[kinds.DESTINATION_GRADIENT] = routine.operand("top gradient", self.values)
        arguments[kinds.SOURCE_GRADIENT] = (
            routine.operand("bottom gradient", self.values)
            if self.input_needs_grad[0]
            else routine.temporary("unwanted gradient", self.values)
        )
        sums = []
        for number, name, place in (
            (kinds.SCALE_GRADIENT, "scale gradient", what.scale),
            (kinds.SHIFT_GRADIENT, "shift gradient", what.shift),
        ):
            if place is not None and kind == kinds.BACKWARD:
                arguments[number] = routine.temporary(name, self.channels)
                if self.param_needs_grad[place]:
                    add = not self.fresh[place]
                    sums.append((arguments[number], routine.operand(name, self.channels), add))
        routine.add_as_given(primitive, arguments)
        for source, target, add in sums:
            routine.reorder(source, target, add=add)

    def _operands(self, routine: Routine) -> dict[int, str]:
        """The arguments that both directions have."""
        arguments = {
            kinds.MEAN: routine.operand("mean", self.channels),
            kinds.VARIANCE: routine.operand("variance", self.channels),
        }
        if self.what.scale is not None:
            arguments[kinds.SCALE] = routine.operand("scale", self.channels)
        if self.what.shift is not None:
            arguments[kinds.SHIFT] = routine.operand("shift", self.channels)
        if self._marks_zeros:
            marks = self.primitive.argument(kinds.WORKSPACE)
            arguments[kinds.WORKSPACE] = routine.operand("marks", marks)
        return arguments

    def _arrays(self, b: Buffers) -> dict[str, Array]:
        places = {"scale": self.what.scale, "shift": self.what.shift}
        params = {name: b.params[place] for name, place in places.items() if place is not None}
        return {**params, **{name: array for name, array in b.saved.items() if name != "bottom"}}

    def forward(self, b: Buffers) -> Run:
        arrays = {"bottom": b.bottoms[0], "top": b.tops[0], "kept": b.saved.get("bottom"), **self._arrays(b)}
        normalise = self.forward_routine.bind(arrays, b.workspace)
        statistics = (b.params[:STATISTICS], b.saved["mean"], b.saved["variance"])
        if not self.what.layer.from_batch:
            return in_sequence([partial(take_global, *statistics), normalise])
        return in_sequence(
            [normalise, partial(take_in, self.what.layer, np.empty_like(statistics[1]), *statistics)]
        )

    def backward(self, b: Buffers) -> Run:
        arrays = {
            "bottom": b.saved.get("bottom", b.bottoms[0]),
            "top gradient": b.top_grads[0],
            "bottom gradient": b.bottom_grads[0],
            **self._arrays(b),
        }
        for name, place in (("scale gradient", self.what.scale), ("shift gradient", self.what.shift)):
            if place is not None:
                arrays[name] = b.param_grads[place]
        return self.backward_routine.bind(arrays, b.workspace)


def normalising(
    nodes: Sequence[Node], mode: Mode, engine: Engine, what: Normalisation, layout: str, in_place: bool
) -> BatchNormForm | BatchNormLoopForm | None:
    """The form of a normalisation of a value of this layout; None where there is no fast one."""
    if form := loop_form(nodes, mode, what, layout, in_place):
        return form
    if what.adds:
        return None
    try:
        primitive = BatchNormForm(nodes, mode, engine, what, layout, in_place)
    except Refused:
        return None
    return None if primitive.is_slow else primitive


def make_batch_norm(nodes: Sequence[Node], mode: Mode, engine: Engine) -> Form | None:
    """The form of a BatchNorm, and of the layers that may follow it."""
    if not fits(nodes) or not 2 <= len(nodes[0].inputs[0].shape) <= 5:
        return None
    what = Normalisation.of(nodes)
    if what is None:
        return None
    value, top = nodes[0].inputs[0], nodes[-1].outputs[0]
    return normalising(nodes, mode, engine, what, value.layout, top.memory is value.memory)


FOLLOWERS: Final = tuple(
    (*scale, *added, *relu)
    for scale in ((), ("Scale",))
    for added in ((), ("Eltwise",))
    for relu in ((), ("ReLU",))
)

FORMS: dict[tuple[str, ...], Maker] = {("BatchNorm", *followers): make_batch_norm for followers in FOLLOWERS}
