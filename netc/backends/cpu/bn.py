"""BatchNorm on oneDNN, with the Scale and the ReLU that may follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from netc.backends.cpu.chain import fits, in_sequence
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
from netc.layer import Array, Buffers, Scratch
from netc.layer.norm import BatchNorm
from netc.layer.scale import Scale

STATISTICS: Final = 3  # BatchNorm's first parameters: sums of means, sums of variances, their weight


@dataclass(frozen=True)
class Normalisation:
    """y = relu(scale (x - mean) / sqrt(variance + eps) + shift), each part where the chain has it.

    scale, shift: the parameters' places among those of the chain.
    """

    layer: BatchNorm
    scale: int | None
    shift: int | None
    relu: bool

    @classmethod
    def of(cls, nodes: Sequence[Node]) -> Normalisation | None:
        """What the layers of a chain come to; None where they do not come to one normalisation."""
        layer, followers = nodes[0].layer, [node.layer for node in nodes[1:]]
        assert isinstance(layer, BatchNorm)
        relu = bool(followers) and followers[-1].type == "ReLU"
        if relu and followers.pop().options.negative_slope:
            return None
        learned = len(layer.params) - STATISTICS
        if followers:
            scale = followers[0]
            assert isinstance(scale, Scale)
            channels = layer.params[0].shape
            if (
                learned
                or len(nodes[1].inputs) > 1
                or scale.operand != channels
                or scale.options.axis not in (1, -3)
            ):
                return None
            learned = len(scale.params)
        factor = STATISTICS if learned > 0 else None
        summand = STATISTICS + 1 if learned > 1 else None
        return cls(layer, factor, summand, relu)

    @property
    def flags(self) -> int:
        """What oneDNN is told."""
        flags = 0 if self.layer.from_batch else kinds.GIVEN_STATISTICS
        flags |= 0 if self.scale is None else kinds.WITH_SCALE
        flags |= 0 if self.shift is None else kinds.WITH_SHIFT
        return flags | (kinds.THEN_RELU if self.relu else 0)


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


def take_global(sums: Sequence[Array], mean: Array, variance: Array) -> None:
    """The running mean and variance: the sums divided by their weight, 0 where it is 0."""
    weight = sums[2][0]
    share = 1 / weight if weight else weight
    np.multiply(sums[0], share, out=mean)
    np.multiply(sums[1], share, out=variance)


def take_in(layer: BatchNorm, scratch: Array, sums: Sequence[Array], mean: Array, variance: Array) -> None:
    """Adds the statistics of one batch to the running sums, as BatchNorm does."""
    fraction = np.float32(layer.options.moving_average_fraction)
    cells = layer.cells[0] * layer.cells[2]
    for blob in sums:
        np.multiply(blob, fraction, out=blob)
    np.add(sums[0], mean, out=sums[0])
    np.multiply(variance, np.float32(cells / (cells - 1) if cells > 1 else 1), out=scratch)
    np.add(sums[1], scratch, out=sums[1])
    np.add(sums[2], 1, out=sums[2])


def make_batch_norm(nodes: Sequence[Node], mode: Mode, engine: Engine) -> Form | None:
    """The form of a BatchNorm, and of the Scale and the ReLU that may follow it."""
    if not fits(nodes) or not 2 <= len(nodes[0].inputs[0].shape) <= 5:
        return None
    what = Normalisation.of(nodes)
    if what is None:
        return None
    value, top = nodes[0].inputs[0], nodes[-1].outputs[0]
    try:
        form = BatchNormForm(nodes, mode, engine, what, value.layout, top.memory is value.memory)
    except Refused:
        return None
    return None if form.is_slow else form


FORMS: dict[tuple[str, ...], Maker] = {
    ("BatchNorm",): make_batch_norm,
    ("BatchNorm", "Scale"): make_batch_norm,
    ("BatchNorm", "ReLU"): make_batch_norm,
    ("BatchNorm", "Scale", "ReLU"): make_batch_norm,
}
