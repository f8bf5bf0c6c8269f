"""The lines that a solver writes to the log, in Caffe's words, for the programs that read such logs."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from netc.runtime import OutputValue

log = logging.getLogger(__name__)

NOTED_SHARE = 0.05


def say(source: str, message: str, *args: object) -> None:
    """Logs a line under the file and line that Caffe would show."""
    log.info(message, *args, extra={"source": source})


def say_iteration(iteration: int, done: int, seconds: float, display: int, loss: float) -> None:
    """Progress since the last such line: `done` iterations in `seconds`."""
    per_second = done / (seconds or 1)
    say(
        "solver.cpp:239",
        "Iteration %d (%g iter/s, %gs/%d iters), loss = %g",
        iteration,
        per_second,
        seconds,
        display,
        loss,
    )


def say_waiting(share: float) -> None:
    """That training has waited for data since the last display, where it is worth a thought."""
    if share >= NOTED_SHARE:
        log.info("Waited for data in %.0f%% of that time", 100 * share)


def say_whole_waiting(seconds: float, share: float) -> None:
    """How much of a whole run was spent on waiting for data."""
    log.info("Training took %.1f s, of which %.1f%% was waiting for data", seconds, 100 * share)


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
