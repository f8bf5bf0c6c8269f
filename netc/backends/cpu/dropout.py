"""Dropout: in loops of our own where it draws; in a net for use its values stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import ceil
from typing import Any, Final

import numpy as np

from netc.backends.cpu.chain import fits, in_sequence
from netc.backends.cpu.loops import bound, compiled, threads_for
from netc.backends.cpu.loops.dropout_job import JOB
from netc.backends.cpu.onednn import Engine
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Array, Buffers, Scratch
from netc.layer.base import count
from netc.layer.dropout import Dropout
from netc.layer.random import key_of

DRAWN: Final = 8  # elements of a byte of the mask
NUMBERS: Final = 1 << 24  # that may be drawn
THREAD_ELEMENTS: Final = 1 << 13  # what a further thread must have to do to be worth its start


class DropForm(Form):
    """y = x factor with probability 1 - ratio, else x 0, by the layer's own draws; values lie plain, since
    that is how they are numbered."""

    variant = "loops"

    def __init__(self, node: Node, layer: Dropout, mode: Mode) -> None:
        """Raises ImportError without numba, OSError without OpenMP."""
        super().__init__((node,))
        self.layer = layer
        self.loops = {name: compiled("dropout", name) for name in ("forward", "advance", "backward")}
        self.backward_bottoms, self.backward_tops = (), ()
        self.elements = count(self.inputs[0].shape)
        if mode.backward and self.needs_backward:
            self.saved = {"mask": Scratch((-(-self.elements // DRAWN),), np.uint8)}

    def forward(self, b: Buffers) -> Run:
        arrays = {"values": b.bottoms[0], "results": b.tops[0], "draw": b.states["draw"], **b.saved}
        return in_sequence([self._bound("forward", arrays), self._bound("advance", arrays, 1)])

    def backward(self, b: Buffers) -> Run | None:
        if b.bottom_grads[0] is None:
            return None
        arrays = {"values": b.top_grads[0], "results": b.bottom_grads[0], **b.saved}
        return self._bound("backward", arrays)

    def _bound(self, name: str, arrays: dict[str, Array], threads: int = 0) -> Run:
        seed, stream = key_of(self.layer.seed, self.layer.name)
        ratio = np.float32(self.layer.options.dropout_ratio)
        numbers = {
            "seed": seed,
            "name": stream,
            "count": self.elements,
            "least": ceil(float(ratio) * NUMBERS),
            "factor": self.layer.factor,
        }
        threads = threads or threads_for(self.elements // THREAD_ELEMENTS)
        return bound(self.loops[name], JOB, threads, numbers, arrays)


class KeepForm(Form):
    """y = x, in whatever layout the value has; in place there is nothing to do."""

    variant = "kept"

    def __init__(self, nodes: Sequence[Node]) -> None:
        super().__init__(nodes)
        self.bottom_layouts = self.top_layouts = (self.inputs[0].layout,)
        self.backward_bottoms, self.backward_tops = (), ()

    def forward(self, b: Buffers) -> Run | None:
        return self._copy(b.bottoms[0], b.tops[0])

    def backward(self, b: Buffers) -> Run | None:
        return None if b.bottom_grads[0] is None else self._copy(b.top_grads[0], b.bottom_grads[0])

    @staticmethod
    def _copy(source: Array, target: Array) -> Run | None:
        in_place = source.ctypes.data == target.ctypes.data
        return None if in_place else partial(np.copyto, target, source)


def make_dropout(nodes: Sequence[Node], mode: Mode, engine: Engine) -> Form | None:
    """The form of a Dropout that draws, or that changes nothing; None where it only multiplies."""
    layer: Any = nodes[0].layer
    if not fits(nodes):
        return None
    if not layer.drops:
        return KeepForm(nodes) if layer.factor == 1 else None
    try:
        return DropForm(nodes[0], layer, mode)
    except (ImportError, OSError):
        return None


FORMS: dict[tuple[str, ...], Maker] = {("Dropout",): make_dropout}
