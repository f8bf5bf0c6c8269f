"""Batch normalisation channels last, by loops of our own; with a residual that is added to it, and a ReLU."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from netc.backends.cpu.chain import in_sequence
from netc.backends.cpu.loops import bound, compiled, threads_for
from netc.backends.cpu.loops.bn_job import JOB, LINES, LOOPS, SUMS
from netc.backends.cpu.normalisation import Normalisation, take_global, take_in
from netc.backends.form import NHWC, Form, Mode, Run
from netc.backends.normalising import STATISTICS
from netc.graph import Node
from netc.layer import Array, Buffers, Scratch
from netc.layer.base import count

log = logging.getLogger(__name__)

LANES = 8  # channels come in multiples of these


class BatchNormLoopForm(Form):
    """A normalisation, forward and backward each in two passes over the values.

    in_place: whether the top is written over the bottom, which is then saved for backward. Raises ImportError
    without numba, OSError without OpenMP.
    """

    variant = "loop nhwc"

    def __init__(self, nodes: Sequence[Node], mode: Mode, what: Normalisation, in_place: bool) -> None:
        super().__init__(nodes)
        self.what = what
        self.loops = {name: compiled("bn", name) for name in LOOPS}
        # The statistics have no gradients: where some are wanted all the same, they must be zeroed before.
        self.writes_fresh = not any(self.param_needs_grad[:STATISTICS])
        self.training = mode.backward and self.needs_backward
        self.keeps_bottom = in_place and self.training
        self.reads_top = what.adds and what.relu
        self.bottom_layouts, self.top_layouts = (NHWC,) * len(self.inputs), (NHWC,)
        images, self.channels, *pixels = self.inputs[0].shape
        self.rows = images * count(pixels)
        self.threads = threads_for(self.rows)
        self.saved = {name: Scratch((self.channels,)) for name in ("mean", "variance", "factor")}
        if self.keeps_bottom:
            self.saved["kept"] = Scratch((self.rows * self.channels,))
        work = {
            "lines": Scratch((self.threads * LINES * self.channels,), np.float32),
            "sums": Scratch((self.threads * SUMS * self.channels,), np.float64),
        }
        self.forward_workspace = work
        self.backward_workspace = {**work, "moves": Scratch((2 * self.channels,), np.float32)}
        self.backward_bottoms = () if self.keeps_bottom or not self.training else (0,)
        self.backward_tops = (0,) if self.training and self.reads_top else ()

    def forward(self, b: Buffers) -> Run:
        arrays = {"bottom": b.bottoms[0], "top": b.tops[0], **self._arrays(b)}
        if self.what.adds:
            arrays["residual"] = b.bottoms[1]
        statistics = (b.params[:STATISTICS], b.saved["mean"], b.saved["variance"])
        finish, normalise = (self._bound(name, arrays) for name in ("finish", "normalise"))
        if not self.what.layer.from_batch:
            return in_sequence([partial(take_global, *statistics), finish, normalise])
        take = partial(take_in, self.what.layer, np.empty_like(statistics[1]), *statistics)
        return in_sequence([*self._summed("moments", arrays), finish, normalise, take])

    def backward(self, b: Buffers) -> Run:
        arrays = {**self._arrays(b), "bottom": b.saved.get("kept", b.bottoms[0]), "top_grad": b.top_grads[0]}
        arrays.pop("kept", None)
        if self.reads_top:
            arrays["top"] = b.tops[0]
        gradients = {
            "bottom_grad": b.bottom_grads[0],
            "cut_grad": b.bottom_grads[1] if self.what.adds else None,
        }
        for name, place in (("scale_grad", self.what.scale), ("shift_grad", self.what.shift)):
            gradients[name] = None if place is None else b.param_grads[place]
        arrays |= {name: array for name, array in gradients.items() if array is not None}
        runs = [*self._summed("gradients", arrays), self._bound("finish_gradients", arrays)]
        if b.bottom_grads[0] is not None:
            runs.append(self._bound("bottom_gradient", arrays))
        return in_sequence(runs)

    def _arrays(self, b: Buffers) -> dict[str, Array]:
        """What both directions work on."""
        places = {"scale": self.what.scale, "shift": self.what.shift}
        params = {name: b.params[place] for name, place in places.items() if place is not None}
        return {**params, **b.saved, **b.workspace}

    def _summed(self, name: str, arrays: Mapping[str, Array]) -> list[Run]:
        """A loop that sums, after what clears the sums: the team may be smaller than was asked for."""
        return [partial(arrays["sums"].fill, 0), self._bound(name, arrays)]

    def _bound(self, name: str, arrays: Mapping[str, Array]) -> Run:
        adds = [place is not None and not self.fresh[place] for place in (self.what.scale, self.what.shift)]
        numbers: dict[str, Any] = {
            "rows": self.rows,
            "channels": self.channels,
            "threads": self.threads,
            "relu": self.what.relu,
            "from_batch": self.what.layer.from_batch,
            "adds_scale": adds[0],
            "adds_shift": adds[1],
            "eps": self.what.layer.options.eps,
        }
        return bound(self.loops[name], JOB, 1 if name.startswith("finish") else self.threads, numbers, arrays)


def loop_form(
    nodes: Sequence[Node], mode: Mode, what: Normalisation, layout: str, in_place: bool
) -> BatchNormLoopForm | None:
    """None where the loops do not fit, or numba is missing."""
    shape = nodes[0].inputs[0].shape
    if layout != NHWC or len(shape) != 4 or shape[1] % LANES:
        return None
    try:
        return BatchNormLoopForm(nodes, mode, what, in_place)
    except (ImportError, OSError) as error:
        log.info("Batch normalisation would be faster with numba (pip install netc[cpu]): %s", error)
        return None
