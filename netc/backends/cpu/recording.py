"""Neighbouring steps of native work as one step: no Python between them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from netc.backends.cpu.native import Chain, can_chain, native
from netc.backends.cpu.native_calls import Call, Native
from netc.backends.step import ArenaForm, Step, explain
from netc.errors import NetcError


class StepCalls(Native):
    """The native work of a step; where it fails, the error names the step's layer."""

    __slots__ = ("_step", "_work")

    def __init__(self, step: Step, work: Native) -> None:
        self._step, self._work = step, work

    def __call__(self) -> None:
        self._work()

    @property
    def calls(self) -> list[Call]:
        return self._work.calls

    def fail(self, place: int, status: int) -> None:
        try:
            self._work.fail(place, status)
        except NetcError as error:
            explain(error, self._step)
            raise


def record_steps(steps: Sequence[Step]) -> list[Step]:
    """The same work in fewer steps."""
    found: list[Step] = []
    pairs = [(step, native(step.run)) for step in steps]
    for is_native, neighbours in groupby(pairs, lambda pair: pair[1] is not None):
        row = list(neighbours)
        if is_native and len(row) > 1 and can_chain():
            chain = Chain([StepCalls(step, work) for step, work in row if work is not None])
            found.append(Step(ArenaForm("native"), row[0][0].direction, chain))
        else:
            found += [step for step, _ in row]
    return found
