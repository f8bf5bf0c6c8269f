"""Pooling on oneDNN, alone or with the ReLU that follows it; maxima that are trained, in loops of our own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from netc.backends.cpu.activation import add_relu_backward, relu_can_end, slope_of
from netc.backends.cpu.chain import fits
from netc.backends.cpu.layout import descriptor_of, elements_of, layout_for
from netc.backends.cpu.loops import bound, compiled, threads_for
from netc.backends.cpu.loops.pool_job import JOB
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

log = logging.getLogger(__name__)

CHOSEN: Final = "chosen"  # the maxima's places
MOST_CELLS: Final = 255  # of a window that the loops can tell apart in a byte
LANES: Final = 8  # channels that the loops take at a time: a vector
GROUP: Final = 8  # vectors that they take through an image together
SMALLEST: Final = 1 << 16  # elements of a bottom; fewer never make good what compiling the loops takes


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


class MaximumLoopForm(Form):
    """y = max(x), or with the ReLU at the end max(x, 0), in loops that leave a byte an output for backward.

    Raises ImportError without numba, OSError without OpenMP.
    """

    def __init__(self, nodes: Sequence[Node], engine: Engine, layout: str, keeps: bool) -> None:
        super().__init__(nodes)
        layer = self.node.layer
        assert isinstance(layer, Pooling)
        self.run = {name: compiled("pool", name) for name in ("forward", "backward")}
        self.bottom_layouts = self.top_layouts = (layout,)
        self.backward_bottoms, self.backward_tops = (), ()
        self.variant = f"loop {layout}"
        bottom, top = layer.bottom_shapes[0], layer.top_shapes[0]
        if keeps:
            self.saved = {CHOSEN: Scratch((elements_of(top, layout, engine.block),), np.uint8)}
        inner = innermost(bottom, layout, engine.block)
        self.outer = elements_of(bottom, layout, engine.block) // (inner * count(layer.image))
        window: Window = layer.window
        self.numbers = {"outer": self.outer, "inner": inner, "cuts": len(nodes) > 1, "keeps": keeps}
        for name, (first, second) in (
            ("HW", layer.image),
            ("PQ", layer.output),
            ("RS", window.kernel),
            (("stride_h", "stride_w"), window.stride),
            (("pad_h", "pad_w"), window.pad),
        ):
            self.numbers |= {name[0]: first, name[1]: second}
        axes = list(zip(layer.image, layer.output, window.kernel, window.stride, window.pad, strict=True))
        self.cells = np.concatenate([cells_of_windows(*axis) for axis in axes])
        self.numbers["groups"] = self._groups(inner)

    def _groups(self, inner: int) -> int:
        """Into how many groups the vectors of a cell go, each for one thread: enough for all threads. Vectors
        that overlap stay together."""
        vectors = inner // LANES
        enough = -(-threads_for(vectors) // self.outer)
        return 1 if inner % LANES else max(enough, vectors // GROUP, 1)

    def forward(self, b: Buffers) -> Run:
        return self._bound("forward", "P", b, {"bottom": b.bottoms[0], "top": b.tops[0]})

    def backward(self, b: Buffers) -> Run | None:
        if b.bottom_grads[0] is None:
            return None
        gradients = {"top_grad": b.top_grads[0], "bottom_grad": b.bottom_grads[0]}
        return self._bound("backward", "groups", b, gradients)

    def _bound(self, direction: str, shared: str, b: Buffers, arrays: dict[str, Array]) -> Run:
        """shared: the number of what threads share, for each outer part."""
        arrays["cells"] = self.cells
        if CHOSEN in b.saved:
            arrays["places"] = b.saved[CHOSEN]
        threads = threads_for(self.outer * self.numbers[shared])
        return bound(self.run[direction], JOB, threads, self.numbers, arrays)


def innermost(shape: Shape, layout: str, block: int) -> int:
    """The channels of one cell that lie side by side."""
    return block if layout == BLOCKED else shape[1]


def cells_of_windows(size: int, output: int, kernel: int, stride: int, pad: int) -> np.ndarray:
    """Along one axis, each window's first cell and the one after its last: (output, 2)."""
    start = np.arange(output, dtype=np.int32) * stride - pad
    return np.stack([np.maximum(start, 0), np.minimum(start + kernel, size)], 1)


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
    if loop := _maximum_loop(nodes, layer, mode, engine):
        return loop
    for layout, inner in _layouts(nodes[0], mode):
        try:
            form = PoolForm(nodes, mode, engine, method, layout, inner)
        except Refused:
            continue
        if not form.is_slow:
            return form
    return None


def _maximum_loop(nodes: Sequence[Node], layer: Pooling, mode: Mode, engine: Engine) -> Form | None:
    """None where the loops do not fit, or would save nothing, or numba is missing."""
    shape, layout = layer.bottom_shapes[0], layout_for(nodes[0].inputs[0], mode)
    trained = mode.backward and nodes[0].needs_backward
    if layer.method != "maximum" or layout not in (NHWC, BLOCKED) or count(shape) < SMALLEST:
        return None
    if layout == BLOCKED and not trained:
        return None  # oneDNN's forward is as fast
    if count(layer.window.kernel) > MOST_CELLS or innermost(shape, layout, engine.block) < LANES:
        return None
    # Forward leaves for backward where the ReLU cut: nobody may change its signs in between.
    if len(nodes) > 1 and (slope_of(nodes[-1]) != 0 or nodes[-1].outputs[0].is_overwritten()):
        return None
    try:
        return MaximumLoopForm(nodes, engine, layout, keeps=trained)
    except (ImportError, OSError) as error:
        log.info("Pooling would be faster with numba (pip install netc[cpu]): %s", error)
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
