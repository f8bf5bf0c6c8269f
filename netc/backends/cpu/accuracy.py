"""Accuracy in a loop of our own: in the tests of small nets NumPy calls would take a tenth of the time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from netc.backends.cpu.chain import fits
from netc.backends.cpu.loops import bound, compiled
from netc.backends.cpu.loops.accuracy_job import JOB
from netc.backends.cpu.onednn import Engine
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers
from netc.layer.labels import read_labels
from netc.layer.metric import Accuracy


class AccuracyForm(Form):
    """The share of rows (N, classes) whose label is among the best scores, where every label counts."""

    variant = "loop"

    def __init__(self, node: Node, layer: Accuracy) -> None:
        """Raises ImportError without numba, OSError without OpenMP."""
        super().__init__((node,))
        self.layer, self.loop = layer, compiled("accuracy", "forward")
        self.backward_bottoms, self.backward_tops = (), ()
        self.capturable = False

    def forward(self, b: Buffers) -> Run:
        layer, labels, wrong = self.layer, b.bottoms[1].reshape(-1), np.zeros(1, np.int64)
        numbers = {"rows": layer.outer, "classes": layer.classes, "top_k": layer.options.top_k}
        arrays = {"scores": b.bottoms[0], "labels": labels, "wrong": wrong, "top": b.tops[0]}
        loop = bound(self.loop, JOB, 1, numbers, arrays)

        def run() -> None:
            loop()
            if wrong[0]:
                read_labels(layer, np, labels, layer.classes)  # says which label is no class

        return run

    def backward(self, b: Buffers) -> None:
        """Nothing: it has no gradient."""


def make_accuracy(nodes: Sequence[Node], mode: Mode, engine: Engine) -> Form | None:
    """The form of Accuracy on a matrix; None where labels are ignored or classes counted one by one."""
    node = nodes[0]
    layer: Any = node.layer
    plain = layer.inner == 1 and len(node.outputs) == 1 and layer.option("ignore_label") is None
    if not plain or not fits(nodes):
        return None
    try:
        return AccuracyForm(node, layer)
    except (ImportError, OSError):
        return None


FORMS: dict[tuple[str, ...], Maker] = {("Accuracy",): make_accuracy}
