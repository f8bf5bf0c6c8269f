"""What an iteration computes: gradients, the update that they make, and the scale of the loss."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from netc.backends.loss_scale import LossScale
from netc.runtime import Net
from netc.runtime.program import Program
from netc.solver.update import Updater

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """An iteration that has been asked for: the program that runs it; loss: None where the journal has it;
    updated: whether its update was a part of it."""

    iteration: int
    program: Program
    loss: float | None
    updated: bool


class Iteration:
    """Passes over a net, each after `batches` of them followed by an update.

    Where a backend keeps a journal, a pass and its update may still be under way when they have been asked
    for, and the next may be asked for: what they come to is told by `settle`, in order. loss_scale: how many
    times too large the gradients are, None where the math does not need that; as far as settled.
    """

    def __init__(self, net: Net, updater: Updater, batches: int) -> None:
        self._net, self._updater, self._batches = net, updater, batches
        self._journal = net.backend.make_journal(len(updater.notes) + len(net.program.losses), updater.notes)
        self._asked: list[Asked] = []
        self.loss_scale: LossScale | None = None
        self.begin_scaling(LossScale())

    def begin_scaling(self, scale: LossScale) -> None:
        """Scales the loss from here on, where the math needs it."""
        if self._net.scales_loss:
            self.loss_scale = scale
            self._net.scale_loss(scale)

    @property
    def fits_in_one(self) -> bool:
        """Whether `run` is more than its parts: where a pass and the update behind it are recorded as one.

        Of several passes the last is not: it would be recorded twice, with and without the update.
        """
        return self._updater.capturable and self._batches == 1

    def run(self, iteration: int, rate: float) -> None:
        """Gradients and update in one."""
        self._updater.prepare(iteration, rate)
        loss = self._net.train(self._updater, self._journal)
        self._asked.append(Asked(iteration, self._net.program, loss, updated=True))
        if loss is None and self._journal:
            self._journal.pace()

    def sum_gradients(self, iteration: int) -> None:
        """The gradients of the batches, added to those that the net has. Its loss is their mean."""
        loss = sum(self._net.forward_backward() for _ in range(self._batches)) / self._batches
        self._asked.append(Asked(iteration, self._net.program, loss, updated=False))

    def update(self, iteration: int, rate: float) -> None:
        """One update from the gradients of now."""
        self._note(self._updater.apply(iteration, rate), iteration)

    @property
    def must_settle(self) -> bool:
        """Whether there is a loss at hand, or no room for another."""
        asked = self._asked
        return bool(asked) and (
            asked[-1].loss is not None or self._journal is None or len(asked) >= self._journal.rows
        )

    def settle(self) -> Iterator[tuple[int, float]]:
        """Iterations that were asked for since the last time, and their losses, from before their updates.

        Waits until all are done. Raises NetcError where a loss is not a number and a layer has found out why;
        the losses behind that one are passed over.
        """
        asked, self._asked = self._asked, []
        rows, notes = self._rows_of(asked), len(self._updater.notes)
        for one, row in zip(asked, rows, strict=True):
            if one.updated:
                self._note(self._updater.outcome(None if row is None else row[:notes]), one.iteration)
        for one, row in zip(asked, rows, strict=True):
            if one.loss is not None:
                yield one.iteration, one.loss
            elif row is not None:
                yield one.iteration, one.program.loss_of(row[notes:])

    def _rows_of(self, asked: Sequence[Asked]) -> list[np.ndarray | None]:
        """What each has left in the journal, if anything."""
        count = sum(one.loss is None for one in asked)
        if self._journal is None or not count:
            return [None] * len(asked)
        # There are more where an interrupt has come between an iteration and this.
        rows = iter(self._journal.take()[-count:])
        return [next(rows) if one.loss is None else None for one in asked]

    def _note(self, applied: bool, iteration: int) -> None:
        """Takes in how an update went: it is left out where scaled gradients overflow."""
        if self.loss_scale is None:
            return
        self.loss_scale.note(applied)
        if not applied:
            log.info(
                "Iteration %d: the gradients overflowed; no update, loss scale now %g",
                iteration,
                self.loss_scale.value,
            )
