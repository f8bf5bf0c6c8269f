"""LRN on oneDNN where it has fast primitives for it, in loops of our own where it has none."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import numpy as np

from netc.backends.cpu.chain import fits
from netc.backends.cpu.layout import descriptor_of, layout_for
from netc.backends.cpu.loops import bound, compiled, threads_for
from netc.backends.cpu.loops.lrn_job import JOB, SCRATCH_ROWS
from netc.backends.cpu.onednn import Engine, Refused, describe, kinds
from netc.backends.cpu.routine_form import RoutineForm
from netc.backends.form import NHWC, PLAIN, Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Array, Buffers, Scratch
from netc.layer.base import count
from netc.layer.norm import LRN

log = logging.getLogger(__name__)

MARKS: Final = "marks"


class PrimitiveForm(RoutineForm):
    """LRN as oneDNN computes it; what forward leaves for backward is oneDNN's own."""

    def __init__(self, node: Node, layer: LRN, mode: Mode, engine: Engine, layout: str) -> None:
        super().__init__((node,), engine)
        across = len(layer.axes) == 1
        algorithm = kinds.LRN_ACROSS_CHANNELS if across else kinds.LRN_WITHIN_CHANNEL
        options = layer.options
        numbers = (options.local_size, options.alpha, options.beta, float(layer.k))
        self.bottom_layouts = self.top_layouts = (layout,)
        values = descriptor_of(engine, node.inputs[0].shape, layout)
        training = mode.backward and self.needs_backward
        kind = kinds.FORWARD_TRAINING if training else kinds.FORWARD_INFERENCE
        primitive = describe(engine, "lrn_forward", kind, algorithm, values, values, *numbers)
        for routine in (self.forward_routine, self.backward_routine):
            routine.operand("bottom", values)
        top = self.forward_routine.operand("top", values)
        forward = {kinds.SOURCE: "bottom", kinds.DESTINATION: top}
        backward = {kinds.SOURCE: "bottom"}
        if training:
            marks = primitive.argument(kinds.WORKSPACE)
            if marks.nbytes:
                self.saved = {MARKS: Scratch((marks.nbytes,), np.uint8)}
                forward[kinds.WORKSPACE] = self.forward_routine.operand(MARKS, marks)
                backward[kinds.WORKSPACE] = self.backward_routine.operand(MARKS, marks)
            backward[kinds.DESTINATION_GRADIENT] = self.backward_routine.operand("top gradient", values)
            backward[kinds.SOURCE_GRADIENT] = self.backward_routine.operand("bottom gradient", values)
            back = describe(engine, "lrn_backward", algorithm, *[values] * 3, *numbers, primitive)
            self.backward_routine.add_as_given(back, backward)
        self.forward_routine.add_as_given(primitive, forward)
        self.take_workspaces()
        self.backward_bottoms, self.backward_tops = (0,), ()
        self.variant = f"onednn {primitive.implementation} {layout}"

    def forward(self, b: Buffers) -> Run:
        return self.forward_routine.bind({"bottom": b.bottoms[0], "top": b.tops[0], **b.saved}, b.workspace)

    def backward(self, b: Buffers) -> Run | None:
        if b.bottom_grads[0] is None:
            return None
        arrays = {
            "bottom": b.bottoms[0],
            "top gradient": b.top_grads[0],
            "bottom gradient": b.bottom_grads[0],
        }
        return self.backward_routine.bind({**arrays, **b.saved}, b.workspace)


class LoopForm(Form):
    """LRN across channels with beta 0.75, channels last, each direction one pass over the values.

    Raises ImportError without numba, OSError without OpenMP.
    """

    variant = "loop nhwc"

    def __init__(self, node: Node, layer: LRN) -> None:
        super().__init__((node,))
        self.run = {name: compiled("lrn", name) for name in ("forward", "backward")}
        self.bottom_layouts = self.top_layouts = (NHWC,)
        self.backward_bottoms, self.backward_tops = (0,), ()
        images, channels, *pixels = node.inputs[0].shape
        half = layer.options.local_size // 2
        self.numbers = {"rows": images * count(pixels), "channels": channels, "half": half}
        self.numbers |= {"k": layer.k, "weight": layer.weight}
        self.threads = threads_for(images * count(pixels))
        scratch = Scratch((self.threads * SCRATCH_ROWS * (channels + 2 * half),), np.float32)
        self.forward_workspace = self.backward_workspace = {"scratch": scratch}

    def forward(self, b: Buffers) -> Run:
        return self._bound("forward", b, bottom=b.bottoms[0], top=b.tops[0])

    def backward(self, b: Buffers) -> Run | None:
        if b.bottom_grads[0] is None:
            return None
        gradients = {"top_grad": b.top_grads[0], "bottom_grad": b.bottom_grads[0]}
        return self._bound("backward", b, bottom=b.bottoms[0], **gradients)

    def _bound(self, direction: str, b: Buffers, **arrays: Array) -> Run:
        arrays["scratch"] = b.workspace["scratch"]
        return bound(self.run[direction], JOB, self.threads, self.numbers, arrays)


def make_lrn(nodes: Sequence[Node], mode: Mode, engine: Engine) -> Form | None:
    """The form of LRN. Plain values stay the layer's: oneDNN would take longer."""
    layer = nodes[0].layer
    assert isinstance(layer, LRN)
    layout = layout_for(nodes[0].inputs[0], mode)
    if layout == PLAIN or not fits(nodes):
        return None
    return _primitive(nodes[0], layer, mode, engine, layout) or _loop(nodes[0], layer)


def _primitive(node: Node, layer: LRN, mode: Mode, engine: Engine, layout: str) -> Form | None:
    """None where oneDNN has no fast primitive."""
    try:
        form = PrimitiveForm(node, layer, mode, engine, layout)
    except Refused:
        return None
    return None if form.is_slow else form


def _loop(node: Node, layer: LRN) -> Form | None:
    """None where the loops do not fit, or numba is missing."""
    if layer.axes != (1,) or layer.options.beta != 0.75:
        return None
    try:
        return LoopForm(node, layer)
    except (ImportError, OSError) as error:
        log.info("LRN would be faster with numba (pip install netc[cpu]): %s", error)
        return None


FORMS: dict[tuple[str, ...], Maker] = {("LRN",): make_lrn}
