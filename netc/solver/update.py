"""One parameter update over the whole arena: clip, normalise, regularise, apply the rule, subtract."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from netc.errors import NetcError
from netc.layer.base import Array
from netc.proto import netc_pb2 as pb
from netc.runtime.parameters import Parameters, Segment
from netc.solver.rules import Rule

log = logging.getLogger(__name__)

BLOCK = 1 << 16  # elements: the handful of arrays that a rule touches stay in a core's second-level cache


@dataclass
class Run:
    """Neighbouring parameters with equal multipliers, as one stretch of the arenas."""

    start: int
    stop: int
    lr_mult: float
    decay_mult: float


@dataclass
class Block:
    """Views of one stretch of every array that an update touches, made once."""

    data: Array
    grad: Array
    history: tuple[Array, ...]
    scratch: tuple[Array, ...]
    lr_mult: float
    decay: float


def merge_segments(segments: Iterable[Segment]) -> list[Run]:
    """The fewest runs that cover the segments; zeros between merged segments are updated along, to zero."""
    runs: list[Run] = []
    for segment in segments:
        multipliers = segment.lr_mult, segment.decay_mult
        stop = segment.offset + segment.count
        if runs and (runs[-1].lr_mult, runs[-1].decay_mult) == multipliers:
            runs[-1].stop = stop
        else:
            runs.append(Run(segment.offset, stop, *multipliers))
    return runs


class Updater:
    """The update of one net's parameters under one solver definition.

    history: flat arrays of the parameters' layout, `rule.history_count` of them, zero at first.
    """

    def __init__(
        self,
        definition: pb.SolverParameter,
        rule: Rule,
        parameters: Parameters,
        xp: ModuleType = np,
        block: int = BLOCK,
    ) -> None:
        self.xp = xp
        self.rule = rule
        self.parameters = parameters
        self.clip: float = definition.clip_gradients
        self.iter_size: int = definition.iter_size
        self.l1 = definition.regularization_type == "L1"
        # Zeros written at once: the first iteration should not pay for the system's first touch of the pages.
        self.history: list[Array] = [xp.full_like(parameters.data, 0) for _ in range(rule.history_count)]
        self._blocks = self._make_blocks(float(definition.weight_decay), block)

    def _make_blocks(self, weight_decay: float, size: int) -> list[Block]:
        data, grad = self.parameters.data, self.parameters.grad
        longest = min(size, len(data))
        # The first scratch array also serves the regularisation.
        scratches = [self.xp.empty(longest, data.dtype) for _ in range(max(1, self.rule.scratch_count))]
        blocks = []
        for run in merge_segments(self.parameters.segments):
            for start in range(run.start, run.stop, size):
                here = slice(start, min(start + size, run.stop))
                blocks.append(
                    Block(
                        data=data[here],
                        grad=grad[here],
                        history=tuple(array[here] for array in self.history),
                        scratch=tuple(array[: here.stop - here.start] for array in scratches),
                        lr_mult=run.lr_mult,
                        decay=weight_decay * run.decay_mult,
                    )
                )
        return blocks

    def apply(self, iteration: int, rate: float) -> None:
        """Updates the parameters from the gradients summed so far, which are overwritten by the updates.

        iteration: the number of updates made before; rate: the learning rate of this one.
        """
        xp = self.xp
        with np.errstate(all="ignore"):  # NaN and infinity are the solver's to report, once
            scale = self._clip_scale() / self.iter_size
            self.rule.begin(iteration)
            for block in self._blocks:
                if scale != 1:
                    xp.multiply(block.grad, scale, out=block.grad)
                if block.decay:
                    self._regularize(block)
                self.rule.update(xp, block.grad, block.history, block.scratch, rate * block.lr_mult)
                xp.subtract(block.data, block.grad, out=block.data)

    def _regularize(self, block: Block) -> None:
        xp, t = self.xp, block.scratch[0]
        if self.l1:
            xp.sign(block.data, out=t)
            xp.multiply(t, block.decay, out=t)
        else:
            xp.multiply(block.data, block.decay, out=t)
        xp.add(block.grad, t, out=block.grad)

    def _clip_scale(self) -> float:
        """What brings the gradients' L2 norm down to `clip_gradients`; 1 where nothing is to be clipped."""
        if self.clip < 0:
            return 1.0
        # Blocks are summed in double: one float32 sum over millions of elements would lose digits.
        norm = math.sqrt(sum(float(self.xp.dot(block.grad, block.grad)) for block in self._blocks))
        if not norm > self.clip:
            return 1.0
        scale = self.clip / norm
        log.info(
            "Gradient clipping: scaling down gradients (L2 norm %g > %g) by scale factor %g",
            norm,
            self.clip,
            scale,
            extra={"source": "sgd_solver.cpp:93"},
        )
        return scale

    def history_blobs(self) -> list[Array]:
        """The history as a solver state stores it: every parameter's first array, then every second one's."""
        views = self.parameters.view
        return [views(flat, segment) for flat in self.history for segment in self.parameters.segments]

    def check_history(self, blobs: Sequence[Array]) -> None:
        """Raises NetcError where a stored history does not fit these parameters and this rule."""
        targets = self.history_blobs()
        names = [f"{s.layer}/{s.index}" for _ in self.history for s in self.parameters.segments]
        if len(blobs) != len(targets):
            raise NetcError(
                "the solver state's history does not fit this net and solver",
                expected=f"{len(targets)} arrays: {self.rule.history_count} for each of "
                f"{len(self.parameters.segments)} parameters ({self.rule.type})",
                found=f"{len(blobs)} arrays",
                remedy="resume with the net and the solver type that wrote the snapshot, "
                "or start from its weights alone (-weights)",
            )
        for name, target, blob in zip(names, targets, blobs, strict=True):
            if legacy_shape(blob.shape) != legacy_shape(target.shape):
                raise NetcError(
                    f"the solver state's history of parameter {name} has another shape",
                    layer=name.rsplit("/", 1)[0],
                    expected=tuple(target.shape),
                    found=tuple(blob.shape),
                    remedy="resume with the net that wrote the snapshot, "
                    "or start from its weights alone (-weights)",
                )

    def load_history(self, blobs: Sequence[Array]) -> None:
        """Takes over a stored history. Raises NetcError, and changes nothing, where it does not fit."""
        self.check_history(blobs)
        for target, blob in zip(self.history_blobs(), blobs, strict=True):
            target[...] = self.xp.asarray(blob, dtype=target.dtype).reshape(target.shape)


def legacy_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the leading ones that four-dimensional blobs of old files carry."""
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape
