"""Softmax on the device: the table of kernels/softmax.cu, its launches, and the form that runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.device.form import DeviceForm, around_axis, fits
from netc.backends.cuda.launching import Launch
from netc.backends.cuda.launching.division import divisor
from netc.backends.cuda.launching.elementwise import BLOCKS_PER_PROCESSOR, THREADS
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers
from netc.layer.softmax import Softmax

LANES = (1, 32, THREADS)  # threads that share the classes of a place
BLOCK_CLASSES = 2048  # so many classes or more are shared by a whole block
LONELY_CLASSES = 16  # so few at most are one thread's, even where they are neighbours in memory
FEW_PLACES = 4096  # so few at most are not worth a thread each: their classes are shared by warps


def by_lanes(kernel: str, file: str) -> dict[tuple[str, int], Variant]:
    """The rows of a kernel that meets classes as softmax.cuh says."""
    return {
        (kernel, lanes): Variant(f"{kernel} lanes {lanes}", file, f"{kernel}<{lanes}>", THREADS)
        for lanes in LANES
    }


VARIANTS = {**by_lanes("softmax_forward", "softmax.cu"), **by_lanes("softmax_backward", "softmax.cu")}


@dataclass(frozen=True)
class Scores:
    """(outer, classes, inner)."""

    outer: int
    classes: int
    inner: int

    @property
    def places(self) -> int:
        return self.outer * self.inner

    @property
    def lanes(self) -> int:
        """How many threads share a place."""
        if self.classes >= BLOCK_CLASSES and self.inner == 1:
            return THREADS
        apart = self.inner > 1 and self.places > FEW_PLACES
        return 1 if apart or self.classes <= LONELY_CLASSES else LANES[1]

    def blocks(self, device: Device) -> int:
        """How many blocks go over all places."""
        most = BLOCKS_PER_PROCESSOR * device.properties.processors
        return max(1, min(-(-self.places * self.lanes // THREADS), most))

    def arguments(self) -> list[Argument]:
        _, reciprocal = divisor(self.inner)
        return [np.uint32(self.places), np.int32(self.classes), np.int32(self.inner), reciprocal]


def forward(device: Device, scores: Scores, x: Memory, y: Memory) -> Run:
    """y is the softmax of x over the classes of each place; it may be x."""
    arguments = (*scores.arguments(), x, y)
    variant = VARIANTS["softmax_forward", scores.lanes]
    return Launch.of(device, variant, (scores.blocks(device),), arguments)


def backward(device: Device, scores: Scores, y: Memory, dy: Memory, dx: Memory) -> Run:
    """dx = y (dy - sum over the classes of dy y); it may be dy."""
    arguments = (*scores.arguments(), y, dy, dx)
    variant = VARIANTS["softmax_backward", scores.lanes]
    return Launch.of(device, variant, (scores.blocks(device),), arguments)


class SoftmaxForm(DeviceForm):
    """One Softmax layer."""

    variant = "softmax"

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        super().__init__(nodes, device)
        layer, shape = self.node.layer, self.inputs[0].shape
        assert isinstance(layer, Softmax)
        outer, inner = around_axis(shape, layer.axis, self.keep_layout())
        self.scores = Scores(outer, shape[layer.axis], inner)

    def forward(self, b: Buffers) -> Run:
        return forward(self.device, self.scores, self.memory(b.bottoms[0]), self.memory(b.tops[0]))

    def backward(self, b: Buffers) -> Run | None:
        if b.bottom_grads[0] is None:
            return None
        y, dy, dx = (self.memory(array) for array in (b.tops[0], b.top_grads[0], b.bottom_grads[0]))
        return backward(self.device, self.scores, y, dy, dx)


def make_softmax(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    """Softmax along any axis."""
    return SoftmaxForm(nodes, device) if fits(nodes) else None


FORMS: dict[tuple[str, ...], Maker] = {("Softmax",): make_softmax}
