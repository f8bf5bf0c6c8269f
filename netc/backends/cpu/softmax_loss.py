"""SoftmaxWithLoss on oneDNN's softmax and a few NumPy calls that allocate nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from netc.backends.cpu.chain import fits, in_sequence
from netc.backends.cpu.layout import descriptor_of
from netc.backends.cpu.onednn import Engine, Refused, Routine, describe, kinds
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Array, Buffers
from netc.layer.labels import read_labels
from netc.layer.loss import SMALLEST_PROBABILITY, SoftmaxWithLoss


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
        runs: list[Run] = [softmax]
        if len(b.tops) > 1:
            runs.append(partial(np.copyto, b.tops[1].reshape(-1), probability))
        labels, layer = b.bottoms[1].reshape(-1), self.layer
        firsts = np.arange(layer.outer, dtype=np.int64) * layer.classes
        likelihood = np.zeros(layer.outer, np.float32)
        loss, share = b.tops[0], np.float32(-1 / self.normalizer)

        def sum_up() -> None:
            np.copyto(index, labels, casting="unsafe")
            if index.min() < 0 or index.max() >= layer.classes or labels.min() <= -1:
                read_labels(layer, np, labels, layer.classes)  # says which label is no class
            np.add(index, firsts, out=index)  # from here on the label's place among all probabilities
            np.take(probability, index, out=likelihood, mode="clip")
            np.maximum(likelihood, SMALLEST_PROBABILITY, out=likelihood)
            np.log(likelihood, out=likelihood)
            loss[...] = 0 + likelihood.sum() * share  # never -0

        return in_sequence([*runs, sum_up])

    def backward(self, b: Buffers) -> Run | None:
        gradient = b.bottom_grads[0]
        if gradient is None:
            return None
        weight: Array | None = b.top_grads[0]
        slope = gradient.reshape(-1)
        if weight is None:  # of two tops only the probabilities are given a gradient, which goes nowhere
            return partial(slope.fill, 0)
        probability, index = b.saved["probability"].reshape(-1), b.saved["index"].reshape(-1)
        picked, share = np.zeros(self.layer.outer, np.float32), 1 / self.normalizer

        def run() -> None:
            np.take(probability, index, out=picked, mode="clip")
            np.subtract(picked, 1, out=picked)
            np.copyto(slope, probability)
            np.put(slope, index, picked)
            np.multiply(slope, np.float32(weight[()] * share), out=slope)

        return run


def make_softmax_loss(nodes: Sequence[Node], mode: Mode, engine: Engine) -> Form | None:
    """The form of a softmax loss on a matrix; None where labels are ignored or weighed."""
    node = nodes[0]
    layer: Any = node.layer
    plain = type(layer) is SoftmaxWithLoss and layer.inner == 1 and layer.ignored() is None
    if not plain or layer.class_weights is not None or not fits(nodes):
        return None
    try:
        form = SoftmaxLossForm(node, layer, engine)
    except Refused:
        return None
    return None if form.softmax.is_slow else form


FORMS: dict[tuple[str, ...], Maker] = {("SoftmaxWithLoss",): make_softmax_loss}
