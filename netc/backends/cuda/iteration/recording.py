"""Steps that run once as they are, are recorded the second time, and replayed from then on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from netc.backends.cuda.device import Device, Graph
from netc.backends.step import STEP_ERRORS, Step, explain


class Recording:
    """A run of steps as one graph launch.

    The first run loads kernels, chooses among their variants, and lets `xp` allocate its temporaries; the
    second is recorded. Whatever changes from run to run is read from device memory.
    """

    def __init__(self, device: Device, steps: Sequence[Step]) -> None:
        self._device, self._steps = device, steps
        self._temporaries = device.temporaries()
        self._warm = False
        self._graph: Graph | None = None

    @property
    def replays(self) -> bool:
        """Whether the work has been recorded."""
        return self._graph is not None

    def __call__(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        elif not self._warm:
            self._run()
            self._warm = True
        else:
            with self._device.capture() as graphs:
                self._run()
            self._graph = graphs[0]
            self._graph.replay()

    def _run(self) -> None:
        with self._temporaries():
            for step in self._steps:
                try:
                    if step.form.runs_on_xp:
                        self._device.run_xp(step.run)
                    else:
                        step.run()
                except STEP_ERRORS as error:
                    explain(error, step)
                    raise


def record_steps(device: Device, steps: Iterable[Step]) -> list[Step]:
    """The steps, with every stretch of them that can be recorded made one."""
    result: list[Step] = []
    for capturable, group in groupby(steps, key=lambda step: step.form.capturable):
        stretch = list(group)
        if capturable:
            recording = Recording(device, stretch)
            result.append(Step(stretch[0].form, stretch[0].direction, recording))
        else:
            result += stretch
    return result
