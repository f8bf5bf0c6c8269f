"""The update of a net's parameters under a solver definition, and the history that it keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import cast
from weakref import WeakKeyDictionary

import numpy as np

from netc.backends.backend import Backend
from netc.backends.cpu import CpuBackend
from netc.backends.form import Form
from netc.backends.step import ArenaForm, Step
from netc.backends.update_spec import CapturableUpdate, PiecewiseUpdate, Stretch, Update, UpdateSpec
from netc.errors import NetcError
from netc.layer.base import Array
from netc.proto import netc_pb2 as pb
from netc.runtime.parameters import ALIGNMENT, Parameters, Segment
from netc.runtime.program import Program
from netc.solver.reference_update import BLOCK, ReferenceUpdate
from netc.solver.rules import Rule


def merge_segments(segments: Iterable[Segment], weight_decay: float = 0.0) -> list[Stretch]:
    """The fewest stretches that cover the segments; zeros between merged segments are updated along, to
    zero."""
    stretches: list[Stretch] = []
    for segment in segments:
        rates = (segment.lr_mult, weight_decay * segment.decay_mult)
        found = Stretch(segment.offset, segment.count, *rates)
        last = stretches[-1] if stretches else None
        if last and (last.lr_mult, last.decay) == rates and found.start - last.stop < ALIGNMENT:
            stretches[-1] = last._replace(elements=found.stop - last.start)
        else:
            stretches.append(found)
    return stretches


def spec_of(definition: pb.SolverParameter, rule: Rule, segments: Iterable[Segment]) -> UpdateSpec:
    """What a solver definition asks of a backend's update of these parameters."""
    return UpdateSpec(
        type=rule.type,
        momentum=definition.momentum,
        momentum2=definition.rms_decay if rule.type == "RMSProp" else definition.momentum2,
        delta=definition.delta,
        l1=definition.regularization_type == "L1",
        clip=definition.clip_gradients,
        iter_size=definition.iter_size,
        stretches=tuple(merge_segments(segments, definition.weight_decay)),
    )


class Updater:
    """The update of one net's parameters under one solver definition.

    The backend's own pass does it where there is one, elsewhere the reference. history: flat arrays of the
    parameters' layout, `rule.history_count` of them, zero at first; steps: the update as work that may be run
    with other work; notes: where that leaves how it went, where it may be recorded.
    """

    def __init__(
        self,
        definition: pb.SolverParameter,
        rule: Rule,
        parameters: Parameters,
        backend: Backend | None = None,
        block: int = BLOCK,
        loss_scale: Array | None = None,
    ) -> None:
        """backend: where the parameters lie, by default the CPU; block: elements that `xp` takes at once;
        loss_scale: how many times too large the gradients are, as `netc.backends.loss_scale` has it."""
        self.backend = backend or CpuBackend()
        self.rule = rule
        self.parameters = parameters
        self._weight_decay = definition.weight_decay
        self.spec = spec_of(definition, rule, parameters.segments)
        self.history: list[Array] = [self._zeros() for _ in range(rule.history_count)]
        arrays = (parameters.data, parameters.grad, self.history, loss_scale)
        self._fast = self.backend.make_update(self.spec, *arrays)
        self._update: Update = self._fast or ReferenceUpdate(self.backend, rule, self.spec, *arrays, block)
        self._prepared = 0, 0.0
        # Of programs that update some parameters on the way: the update of the others.
        self._joined: WeakKeyDictionary[Program, PiecewiseUpdate] = WeakKeyDictionary()
        form = ArenaForm("update", capturable=self.capturable)
        self.steps: Sequence[Step] = [Step(form, "update", self._update.run)]
        self._alone = self.backend.record(self.steps) if self.capturable else self.steps
        self.notes: Sequence[Array] = self._recorded.notes if self.capturable else ()

    def _zeros(self) -> Array:
        data = self.parameters.data
        zeros = self.backend.allocate(data.nbytes, "solver history").view(data.dtype)
        # Written at once: the first iteration should not pay for the system's first touch of the pages.
        with self.backend.active():
            zeros.fill(0)
        return zeros

    def apply(self, iteration: int, rate: float) -> bool:
        """Updates the parameters from the gradients summed so far, which are overwritten by the updates.

        iteration: the number of updates made before; rate: the learning rate of this one. False, with nothing
        changed, where the loss is scaled and the gradients have overflowed.
        """
        self.backend.push()
        self.prepare(iteration, rate)
        # NaN and infinity are the solver's to report, once.
        with self.backend.active(), np.errstate(all="ignore"):
            for step in self._alone:
                step.run()
        return self.outcome()

    def prepare(self, iteration: int, rate: float) -> None:
        """Says what the next update is to take, as in `apply`, for one that runs in `steps` or in those of
        `joined_to`."""
        self._prepared = iteration, rate
        for update in (self._update, *self._joined.values()):
            update.prepare(*self._prepared)

    def joined_to(self, program: Program) -> Sequence[Step]:
        """A program's backward steps and this update.

        It follows them, but where a step can give a parameter's gradient piece by piece, each piece is used
        at once: the whole gradient is never in memory, and its place in the arena holds nothing.
        """
        found = self._given_in_pieces(program)
        if not found or not isinstance(self._fast, PiecewiseUpdate):
            return [*program.backward_steps, *self.steps]
        inside = {segment.offset for updates in found.values() for segment in updates.values()}
        rest = [segment for segment in self.parameters.segments if segment.offset not in inside]
        update = self._fast.only(merge_segments(rest, self._weight_decay))
        steps = [
            self._updating(step, program, update, found[step.form]) if step.form in found else step
            for step in program.backward_steps
        ]
        update.prepare(*self._prepared)
        self._joined[program] = update
        return [*steps, Step(self.steps[0].form, "update", update.run)]

    def _given_in_pieces(self, program: Program) -> dict[Form, dict[int, Segment]]:
        """The parameters whose gradients forms of a program can give piece by piece, by their place in the
        form: those that nothing else reads or gives a gradient to."""
        segments = {(segment.layer, segment.index): segment for segment in self.parameters.segments}
        users = Counter(param.owner for param in program.graph.params())
        found: dict[Form, dict[int, Segment]] = {}
        for form in program.forms:
            for place in form.gives_in_pieces:
                param = form.params[place]
                segment = segments.get((param.layer, param.index))
                if segment and users[param] == 1:
                    found.setdefault(form, {})[place] = segment
        return found

    def _updating(
        self, step: Step, program: Program, update: PiecewiseUpdate, segments: Mapping[int, Segment]
    ) -> Step:
        """A step of a backward pass that updates some parameters itself."""
        uses = {
            place: partial(update.in_pieces, *merge_segments([segment], self._weight_decay))
            for place, segment in segments.items()
        }
        run = step.form.backward_in_pieces(program.buffers_of(step), uses)
        return replace(step, run=run)

    def outcome(self, noted: np.ndarray | None = None) -> bool:
        """Whether an update has changed the parameters: that which has left these numbers in `notes`, or the
        last."""
        return self._update.outcome() if noted is None else self._recorded.outcome_of(noted)

    @property
    def _recorded(self) -> CapturableUpdate:
        return cast(CapturableUpdate, self._update)

    @property
    def capturable(self) -> bool:
        """Whether `steps` may be recorded with other work."""
        return self._update.capturable

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
