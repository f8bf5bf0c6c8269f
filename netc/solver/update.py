"""One parameter update over the whole arena: clip, normalise, regularise, apply the rule, subtract."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from netc.backends.backend import Backend
from netc.backends.clipping import clip_scale
from netc.backends.cpu import CpuBackend
from netc.backends.update_spec import UpdateSpec
from netc.errors import NetcError
from netc.layer.base import Array
from netc.proto import netc_pb2 as pb
from netc.runtime.parameters import Parameters, Segment
from netc.solver.rules import Rule

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


def spec_of(definition: pb.SolverParameter, rule: Rule, runs: Iterable[Run]) -> UpdateSpec:
    """What a solver definition asks of a backend's update."""
    return UpdateSpec(
        type=rule.type,
        momentum=definition.momentum,
        momentum2=definition.rms_decay if rule.type == "RMSProp" else definition.momentum2,
        delta=definition.delta,
        l1=definition.regularization_type == "L1",
        clip=definition.clip_gradients,
        iter_size=definition.iter_size,
        runs=tuple(
            (run.start, run.stop - run.start, run.lr_mult, definition.weight_decay * run.decay_mult)
            for run in runs
        ),
    )


class Updater:
    """The update of one net's parameters under one solver definition.

    The backend's own pass does it where there is one; what is written here over `xp` is the meaning of that
    pass, and runs elsewhere. history: flat arrays of the parameters' layout, `rule.history_count` of them,
    zero at first.
    """

    def __init__(
        self,
        definition: pb.SolverParameter,
        rule: Rule,
        parameters: Parameters,
        backend: Backend | None = None,
        block: int = BLOCK,
    ) -> None:
        """backend: where the parameters lie, by default the CPU; block: elements that `xp` takes at once."""
        self.backend = backend or CpuBackend()
        self.xp = self.backend.xp
        self.rule = rule
        self.parameters = parameters
        self.spec = spec_of(definition, rule, merge_segments(parameters.segments))
        self.history: list[Array] = [self._zeros() for _ in range(rule.history_count)]
        self._fast = self.backend.make_update(self.spec, parameters.data, parameters.grad, self.history)
        self._blocks = [] if self._fast else self._make_blocks(block)

    def _zeros(self) -> Array:
        data = self.parameters.data
        zeros = self.backend.allocate(data.nbytes, "solver history").view(data.dtype)
        # Written at once: the first iteration should not pay for the system's first touch of the pages.
        with self.backend.active():
            zeros.fill(0)
        return zeros

    def _make_blocks(self, size: int) -> list[Block]:
        data, grad = self.parameters.data, self.parameters.grad
        longest = min(size, len(data))
        # The first scratch array also serves the regularisation.
        scratches = [self.xp.empty(longest, data.dtype) for _ in range(max(1, self.rule.scratch_count))]
        blocks = []
        for first, count, lr_mult, decay in self.spec.runs:
            for start in range(first, first + count, size):
                here = slice(start, min(start + size, first + count))
                blocks.append(
                    Block(
                        data=data[here],
                        grad=grad[here],
                        history=tuple(array[here] for array in self.history),
                        scratch=tuple(array[: here.stop - here.start] for array in scratches),
                        lr_mult=lr_mult,
                        decay=decay,
                    )
                )
        return blocks

    def apply_scaled(self, iteration: int, rate: float, scale: float) -> bool:
        """As `apply`, for gradients of a scaled loss; False, with nothing changed, where they overflowed."""
        if self._fast:
            return self._fast.apply_scaled(iteration, rate, scale)
        with self.backend.active(), np.errstate(all="ignore"):
            grad = self.parameters.grad
            if not bool(self.xp.isfinite(grad).all()):
                return False
            self.xp.multiply(grad, 1 / scale, out=grad)
        self.apply(iteration, rate)
        return True

    def apply(self, iteration: int, rate: float) -> None:
        """Updates the parameters from the gradients summed so far, which are overwritten by the updates.

        iteration: the number of updates made before; rate: the learning rate of this one.
        """
        if self._fast:
            self._fast.apply(iteration, rate)
            return
        # NaN and infinity are the solver's to report, once.
        with self.backend.active(), np.errstate(all="ignore"):
            self._apply_blocks(iteration, rate)

    def _apply_blocks(self, iteration: int, rate: float) -> None:
        xp = self.xp
        scale = self._clip_scale() / self.spec.iter_size
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
        if self.spec.l1:
            xp.sign(block.data, out=t)
            xp.multiply(t, block.decay, out=t)
        else:
            xp.multiply(block.data, block.decay, out=t)
        xp.add(block.grad, t, out=block.grad)

    def _clip_scale(self) -> float:
        """What brings the gradients' L2 norm down to `clip_gradients`; 1 where nothing is to be clipped."""
        if self.spec.clip < 0:
            return 1.0
        # Blocks are summed in double: one float32 sum over millions of elements would lose digits.
        squares = sum(float(self.xp.dot(block.grad, block.grad)) for block in self._blocks)
        return clip_scale(math.sqrt(squares), self.spec.clip)

    def history_blobs(self) -> list[Array]:
        """The history as a solver state stores it: every parameter's first array, then every second one's."""
        return [self.backend.read(view) for view in self._history_views()]

    def _history_views(self) -> list[Array]:
        view = self.parameters.view
        return [view(flat, segment) for flat in self.history for segment in self.parameters.segments]

    def check_history(self, blobs: Sequence[Array]) -> None:
        """Raises NetcError where a stored history does not fit these parameters and this rule."""
        targets = self._history_views()
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
        for target, blob in zip(self._history_views(), blobs, strict=True):
            self.backend.write(target, np.asarray(blob, target.dtype).reshape(target.shape))


def legacy_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the leading ones that four-dimensional blobs of old files carry."""
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape
