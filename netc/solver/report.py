"""The lines that a solver writes to the log, in Caffe's words, for the programs that read such logs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from netc.runtime import Net, OutputValue
from netc.solver.waiting import WaitingSpan

log = logging.getLogger(__name__)

NOTED_SHARE = 0.05


def say(source: str, message: str, *args: object) -> None:
    """Logs a line under the file and line that Caffe would show."""
    log.info(message, *args, extra={"source": source})


def say_whole_waiting(seconds: float, share: float) -> None:
    """How much of a whole run was spent on waiting for data."""
    log.info("Training took %.1f s, of which %.1f%% was waiting for data", seconds, 100 * share)


def say_waiting(share: float) -> None:
    """That training has waited for data since the last display, where it is worth a thought."""
    if share >= NOTED_SHARE:
        log.info("Waited for data in %.0f%% of that time", 100 * share)


class Progress:
    """What a display tells of the time since the one before."""

    def __init__(self, nets: Sequence[Net], iteration: int) -> None:
        self._nets = nets
        self._begin(iteration)

    def _begin(self, iteration: int) -> None:
        self._iteration, self._span = iteration, WaitingSpan(self._nets)

    def say(self, iteration: int, display: int, loss: float) -> None:
        """The lines of a display. display: the interval of displays; loss: the mean to show."""
        done, seconds = iteration - self._iteration, round(self._span.seconds, 6)
        line = "Iteration %d (%g iter/s, %gs/%d iters), loss = %g"
        say("solver.cpp:239", line, iteration, done / (seconds or 1), seconds, display, loss)
        say_waiting(self._span.share)
        self._begin(iteration)


def say_train_outputs(outputs: Iterable[OutputValue]) -> None:
    """The train net's outputs, one line for each element."""
    _say_outputs("solver.cpp:258", "    Train net output #%d: %s = %g%s", outputs)


def say_test_outputs(outputs: Iterable[OutputValue]) -> None:
    """A test net's mean outputs, one line for each element."""
    _say_outputs("solver.cpp:414", "    Test net output #%d: %s = %g%s", outputs)


def _say_outputs(source: str, message: str, outputs: Iterable[OutputValue]) -> None:
    index = 0
    for output in outputs:
        weight = output.loss_weight
        for value in output.data.ravel().tolist():
            loss = f" (* {weight:g} = {weight * value:g} loss)" if weight else ""
            say(source, message, index, output.name, value, loss)
            index += 1
