"""SoftmaxWithLoss on oneDNN's softmax, and on loops of our own or a few NumPy calls that allocate nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from netc.backends.cpu.chain import fits, in_sequence
from netc.backends.cpu.layout import descriptor_of
from netc.backends.cpu.loops import bound, compiled, threads_for
from netc.backends.cpu.loops.softmax_loss_job import JOB
from netc.backends.cpu.onednn import Engine, Refused, Routine, describe, kinds
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Array, Buffers
from netc.layer.labels import read_labels
from netc.layer.loss import SMALLEST_PROBABILITY, SoftmaxWithLoss

THREAD_ELEMENTS: Final = 1 << 16  # what a further thread must have to do to be worth its start


class SoftmaxLossForm(Form):
    """-sum log p[label] / normalizer with p = softmax(x), where every row of x (N, classes) has a label that
    counts as much as any other."""

    def __init__(self, node: Node, layer: SoftmaxWithLoss, engine: Engine) -> None:
        super().__init__((node,))
        self.layer = layer
        self.saved = layer.saved
        self.backward_bottoms, self.backward_tops = (), ()
        self.capturable = False
        values = descriptor_of(engine, (layer.outer, layer.classes))
        arguments = (kinds.FORWARD_INFERENCE, kinds.SOFTMAX, values, values, 1)
        primitive = describe(engine, "softmax_forward", *arguments)
        self.softmax = Routine(engine)
        operands = {kinds.SOURCE: self.softmax.operand("scores", values)}
        operands[kinds.DESTINATION] = self.softmax.operand("probability", values)
        self.softmax.add_as_given(primitive, operands)
        self.forward_workspace = self.softmax.workspace
        self.normalizer = max(1, layer.normalize(layer.outer, 1, layer.outer))
        self.variant = f"onednn {primitive.implementation}"

    def forward(self, b: Buffers) -> Run:
        probability, index = b.saved["probability"].reshape(-1), b.saved["index"].reshape(-1)
        softmax = self.softmax.bind({"scores": b.bottoms[0], "probability": probability}, b.workspace)
        runs: list[Run] = [softmax, self.sum_up(b, probability, index)]
        if len(b.tops) > 1:
            runs.append(partial(np.copyto, b.tops[1].reshape(-1), probability))
        return in_sequence(runs)

    def sum_up(self, b: Buffers, probability: Array, index: Array) -> Run:
        """What makes the loss of the probabilities, and leaves the place of each label's among all of
        them."""
        labels, layer = b.bottoms[1].reshape(-1), self.layer
        firsts = np.arange(layer.outer, dtype=np.int64) * layer.classes
        likelihood = np.zeros(layer.outer, np.float32)
        loss, share = b.tops[0], np.float32(-1 / self.normalizer)

        def run() -> None:
            np.copyto(index, labels, casting="unsafe")
            if index.min() < 0 or index.max() >= layer.classes or labels.min() <= -1:
                read_labels(layer, np, labels, layer.classes)  # says which label is no class
            np.add(index, firsts, out=index)
            np.take(probability, index, out=likelihood, mode="clip")
            np.maximum(likelihood, SMALLEST_PROBABILITY, out=likelihood)
            np.log(likelihood, out=likelihood)
            # oneDNN makes a NaN only of the class whose score was one, where in Caffe all of them are.
            nothing = probability.sum() * 0
            loss[...] = nothing + likelihood.sum() * share  # never -0

        return run

    def backward(self, b: Buffers) -> Run | None:
        gradient = b.bottom_grads[0]
        if gradient is None:
            return None
        weight: Array | None = b.top_grads[0]
        if weight is None:  # of two tops only the probabilities are given a gradient, which goes nowhere
            return partial(gradient.fill, 0)
        return self.fall(b, weight, gradient.reshape(-1))

    def fall(self, b: Buffers, weight: Array, slope: Array) -> Run:
        """What makes the bottom's gradient."""
        probability, index = b.saved["probability"].reshape(-1), b.saved["index"].reshape(-1)
        picked, share = np.zeros(self.layer.outer, np.float32), 1 / self.normalizer

        def run() -> None:
            np.take(probability, index, out=picked, mode="clip")
            np.subtract(picked, 1, out=picked)
            np.copyto(slope, probability)
            np.put(slope, index, picked)
            np.multiply(slope, np.float32(weight[()] * share), out=slope)

        return run


class LoopForm(SoftmaxLossForm):
    """The same, with what follows the softmax in loops of our own."""

    def __init__(self, node: Node, layer: SoftmaxWithLoss, engine: Engine) -> None:
        """Raises ImportError without numba, OSError without OpenMP."""
        self.loops = {name: compiled("softmax_loss", name) for name in ("forward", "backward")}
        super().__init__(node, layer, engine)
        self.variant += "; loops"

    def sum_up(self, b: Buffers, probability: Array, index: Array) -> Run:
        labels, layer, wrong = b.bottoms[1].reshape(-1), self.layer, np.zeros(1, np.int64)
        arrays = {"labels": labels, "probability": probability, "index": index}
        loop = self._bound("forward", 1, arrays | {"wrong": wrong, "loss": b.tops[0]})

        def run() -> None:
            loop()
            if wrong[0]:
                read_labels(layer, np, labels, layer.classes)  # says which label is no class

        return run

    def fall(self, b: Buffers, weight: Array, slope: Array) -> Run:
        arrays = {name: b.saved[name].reshape(-1) for name in ("probability", "index")}
        threads = threads_for(slope.size // THREAD_ELEMENTS)
        return self._bound("backward", threads, arrays | {"weight": weight, "slope": slope})

    def _bound(self, name: str, threads: int, arrays: dict[str, Array]) -> Run:
        numbers = {"rows": self.layer.outer, "classes": self.layer.classes}
        parts = {"share": 1 / self.normalizer, "smallest": SMALLEST_PROBABILITY}
        return bound(self.loops[name], JOB, threads, numbers | parts, arrays)


def make_softmax_loss(nodes: Sequence[Node], mode: Mode, engine: Engine) -> Form | None:
    """The form of a softmax loss on a matrix; None where labels are ignored or weighed."""
    node = nodes[0]
    layer: Any = node.layer
    plain = type(layer) is SoftmaxWithLoss and layer.inner == 1 and layer.ignored() is None
    if not plain or layer.class_weights is not None or not fits(nodes):
        return None
    try:
        form = _form(node, layer, engine)
    except Refused:
        return None
    return None if form.softmax.is_slow else form


def _form(node: Node, layer: SoftmaxWithLoss, engine: Engine) -> SoftmaxLossForm:
    """With loops where they can be had. Raises Refused where oneDNN has no softmax for it."""
    try:
        return LoopForm(node, layer, engine)
    except (ImportError, OSError):
        return SoftmaxLossForm(node, layer, engine)


FORMS: dict[tuple[str, ...], Maker] = {("SoftmaxWithLoss",): make_softmax_loss}
