"""Pooling on oneDNN, alone or with the ReLU that follows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from netc.backends.cpu.activation import add_relu_backward, relu_can_end, slope_of
from netc.backends.cpu.chain import fits
from netc.backends.cpu.layout import descriptor_of, layout_for
from netc.backends.cpu.onednn import (
    Attributes,
    Descriptor,
    Engine,
    PrimitiveDescriptor,
    Refused,
    Routine,
    describe,
    kinds,
)
from netc.backends.cpu.onednn.functions import dims
from netc.backends.cpu.routine_form import RoutineForm
from netc.backends.form import BLOCKED, NHWC, PLAIN, Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Array, Buffers, Scratch, Shape
from netc.layer.base import count
from netc.layer.pool import Pooling
from netc.layer.window import Window

CHOSEN: Final = "chosen"  # the maxima's places


@dataclass(frozen=True)
class Method:
    """How oneDNN pools, and by what its results must be multiplied to be Caffe's: a number for each output
    (P, Q), None for 1."""

    algorithm: int
    factor: np.ndarray | None = None


def method_of(layer: Pooling) -> Method | None:
    """None where oneDNN cannot do it."""
    behind = overhang(layer)
    if any(cells >= kernel for cells, kernel in zip(behind, layer.window.kernel, strict=True)):
        return None  # a window of no cell at all
    if layer.method == "maximum" and len(layer.top_shapes) == 1:
        return Method(kinds.POOLING_MAX)
    if layer.method != "average":
        return None
    if not any(layer.window.pad):
        return Method(kinds.POOLING_AVERAGE_WITHOUT_PADDING)
    if all(cells <= pad for cells, pad in zip(behind, layer.window.pad, strict=True)):
        return Method(kinds.POOLING_AVERAGE_WITH_PADDING)
    # Caffe counts the cells of the padding, but not those that lie behind it.
    return Method(kinds.POOLING_AVERAGE_WITH_PADDING, _shares(layer))


def overhang(layer: Pooling) -> Shape:
    """The cells of the last window behind the image, along each axis; 0 where it ends before."""
    window = layer.window
    axes = zip(layer.image, layer.output, window.kernel, window.stride, window.pad, strict=True)
    return tuple(max(0, (out - 1) * stride + kernel - size - pad) for size, out, kernel, stride, pad in axes)


def _shares(layer: Pooling) -> np.ndarray:
    """The cells of a whole window over those that Caffe divides by."""
    counted = []
    window = layer.window
    axes = zip(layer.image, layer.output, window.kernel, window.stride, window.pad, strict=True)
    for size, out, kernel, stride, pad in axes:
        start = np.arange(out) * stride - pad
        counted.append(np.minimum(start + kernel, size + pad) - start)
    return (count(window.kernel) / np.outer(*counted)).astype(np.float32)


class PoolForm(RoutineForm):
    """y = relu(pool(x)), where the chain ends with a ReLU, else y = pool(x).

    A plain bottom goes through blocks of channels, which oneDNN pools many times faster.
    """

    def __init__(
        self, nodes: Sequence[Node], mode: Mode, engine: Engine, method: Method, layout: str, inner: str
    ) -> None:
        super().__init__(nodes, engine)
        layer = self.node.layer
        assert isinstance(layer, Pooling)
        self.method = method
        self.slope = slope_of(self.nodes[-1]) if len(self.nodes) > 1 else None
        self.bottom_layouts = self.top_layouts = (layout,)
        shapes = (layer.bottom_shapes[0], layer.top_shapes[0])
        self.bottom, self.top = (descriptor_of(engine, shape, layout) for shape in shapes)
        self.inner_bottom, self.inner_top = (descriptor_of(engine, shape, inner) for shape in shapes)
        self.training = mode.backward and self.needs_backward
        self.remembers = self.training and method.algorithm == kinds.POOLING_MAX
        self.arguments = _arguments(layer)
        self.primitive = self._describe_forward()
        if self.remembers:
            self.chosen = self.primitive.argument(kinds.WORKSPACE)
            self.saved = {CHOSEN: Scratch((self.chosen.nbytes,), np.uint8)}
        self._write_forward(self.forward_routine)
        if self.training:
            self._write_backward(self.backward_routine)
        self.take_workspaces()
        self.backward_bottoms: tuple[int, ...] = ()
        self.backward_tops = () if self.slope is None else (0,)
        self.variant = f"onednn {self.primitive.implementation} {layout}"

    def forward(self, b: Buffers) -> Run:
        arrays = {"bottom": b.bottoms[0], "top": b.tops[0], CHOSEN: b.saved.get(CHOSEN)}
        return self.forward_routine.bind(arrays | self._factor(), b.workspace)

    def backward(self, b: Buffers) -> Run:
        arrays = {
            "top": b.tops[0],
            "top gradient": b.top_grads[0],
            "bottom gradient": b.bottom_grads[0],
            CHOSEN: b.saved.get(CHOSEN),
        }
        return self.backward_routine.bind(arrays | self._factor(), b.workspace)

    def _factor(self) -> dict[str, Array | None]:
        return {"factor": self.method.factor}

    def _describe_forward(self) -> PrimitiveDescriptor:
        training = kinds.FORWARD_TRAINING if self.training else kinds.FORWARD_INFERENCE
        # Where results are multiplied afterwards, the ReLU still comes first: the factors are positive.
        attributes = Attributes(self.engine, slope=self.slope)
        values = (training, self.method.algorithm, self.inner_bottom, self.inner_top, *self.arguments)
        return describe(self.engine, "pooling_forward", *values, attributes=attributes)

    def _write_forward(self, routine: Routine) -> None:
        routine.operand("bottom", self.bottom)
        routine.operand("top", self.top)
        writes = {kinds.DESTINATION: "top"}
        if self.remembers:
            writes[kinds.WORKSPACE] = routine.operand(CHOSEN, self.chosen)
        routine.add(self.primitive, {kinds.SOURCE: "bottom"}, writes)
        if self.method.factor is not None:
            self._multiply(routine, "top", "top")

    def _write_backward(self, routine: Routine) -> None:
        gradient = routine.operand("top gradient", self.top)
        if self.slope is not None:
            add_relu_backward(routine, self.slope, routine.operand("top", self.top), gradient)
        if self.method.factor is not None:
            gradient = routine.temporary("weighed gradient", self.top)
            self._multiply(routine, "top gradient", gradient)
        values = (self.method.algorithm, self.inner_bottom, self.inner_top, *self.arguments, self.primitive)
        reads = {kinds.DESTINATION_GRADIENT: gradient}
        if self.remembers:
            reads[kinds.WORKSPACE] = routine.operand(CHOSEN, self.chosen)
        writes = {kinds.SOURCE_GRADIENT: routine.operand("bottom gradient", self.bottom)}
        routine.add(describe(self.engine, "pooling_backward", *values), reads, writes)

    def _multiply(self, routine: Routine, source: str, target: str) -> None:
        """target = source times the factor of each output."""
        assert self.method.factor is not None
        factor = Descriptor.strided(self.engine, (1, 1, *self.method.factor.shape))
        routine.operand("factor", factor)
        values = (kinds.MULTIPLY, routine.operands[source], factor, routine.operands[target])
        reads = {kinds.SOURCE: source, kinds.SOURCE_1: "factor", kinds.DESTINATION: target}
        routine.add_as_given(describe(self.engine, "binary", *values), reads)


def _arguments(layer: Pooling) -> tuple[Any, ...]:
    """Strides, window, gaps and paddings as C arrays."""
    window: Window = layer.window
    sizes = (window.stride, window.kernel, (0,) * len(window.kernel), window.pad, overhang(layer))
    return tuple(dims(size) for size in sizes)


def make_pooling(nodes: Sequence[Node], mode: Mode, engine: Engine) -> Form | None:
    """The form of a pooling layer and the ReLU that may follow it."""
    layer = nodes[0].layer
    assert isinstance(layer, Pooling)
    if not fits(nodes) or (len(nodes) > 1 and not relu_can_end(nodes)):
        return None
    method = method_of(layer)
    if method is None:
        return None
    for layout, inner in _layouts(nodes[0], mode):
        try:
            form = PoolForm(nodes, mode, engine, method, layout, inner)
        except Refused:
            continue
        if not form.is_slow:
            return form
    return None


def _layouts(node: Node, mode: Mode) -> Iterator[tuple[str, str]]:
    """The layouts of the values, and those to pool in, the best first."""
    wanted = layout_for(node.inputs[0], mode)
    if wanted == PLAIN:
        yield PLAIN, BLOCKED
    else:
        yield wanted, wanted
        yield NHWC, NHWC


FORMS: dict[tuple[str, ...], Maker] = {
    ("Pooling",): make_pooling,
    ("Pooling", "ReLU"): make_pooling,
}
