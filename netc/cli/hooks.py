"""What `netc train` hangs on the solver: the events as JSON lines, and a stop after N."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from netc.layer import Array
from netc.runtime import Net, OutputValue
from netc.solver import Solver
from netc.solver.hooks import Hook

log = logging.getLogger(__name__)


def images_per_iteration(solver: Solver) -> int:
    """The images in one iteration: the train net's batch times iter_size, 0 where no data source says."""
    return batch_size(solver.net) * max(1, solver.param.iter_size)


def batch_size(net: Net) -> int:
    """The largest batch among a net's data sources; sources side by side carry parts of the same images."""
    shapes = [source.tops[0].shape for source in net.sources.values()]
    return max((shape[0] for shape in shapes if shape), default=0)


class StopAfter(Hook):
    """Stops a run after `iterations` more iterations, as a signal would: with a snapshot."""

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations
        self.start = 0

    def on_start(self, solver: Solver) -> None:
        self.start = solver.iter

    def on_iteration(self, solver: Solver) -> None:
        if solver.iter - self.start >= self.iterations and solver.iter < solver.param.max_iter:
            solver.request_stop()


class EventHook(Hook, AbstractContextManager["EventHook"]):
    """Writes one JSON object a line, with its kind, the iteration and the seconds since the start.

    kind start: net, max_iter, time; display: loss, lr, outputs (name: value, or a list of values),
    loss_weights (of the outputs that are losses), images_per_s; test: net (its index), outputs, loss_weights;
    snapshot: files; end. What is not finite is null.
    """

    def __init__(self, path: Path) -> None:
        self.stream = path.open("a", encoding="utf-8")
        self.start = self.shown_at = time.monotonic()
        self.shown_iter = 0

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):  # what could not be written before cannot be now
            self.stream.close()

    def write(self, kind: str, solver: Solver, **facts: Any) -> None:
        """One event, written whole. A disk that is full ends the events, not the run."""
        if self.stream.closed:
            return
        seconds = time.monotonic() - self.start
        event = {"kind": kind, "iter": solver.iter, "seconds": seconds, **facts}
        try:
            self.stream.write(json.dumps(_tidy(event)) + "\n")
            self.stream.flush()
        except OSError as error:
            log.warning("%s is no longer written: %s", self.stream.name, error.strerror)
            self.__exit__()

    def on_start(self, solver: Solver) -> None:
        self.start = self.shown_at = time.monotonic()
        self.shown_iter = solver.iter
        moment = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self.write("start", solver, net=solver.net.name, max_iter=solver.param.max_iter, time=moment)

    def on_display(self, solver: Solver) -> None:
        now = time.monotonic()
        images = (solver.iter - self.shown_iter) * images_per_iteration(solver)
        speed = images / (now - self.shown_at) if images else None
        self.shown_at, self.shown_iter = now, solver.iter
        self.write(
            "display",
            solver,
            loss=solver.smoothed_loss,
            lr=solver.lr,
            images_per_s=speed,
            **_outputs(solver.net.output_values()),
        )

    def on_test(self, solver: Solver, test_net_index: int, results: Sequence[OutputValue]) -> None:
        self.write("test", solver, net=test_net_index, **_outputs(results))

    def on_snapshot(self, solver: Solver, files: Sequence[str]) -> None:
        self.write("snapshot", solver, files=list(files))

    def on_end(self, solver: Solver) -> None:
        self.write("end", solver)


def _outputs(values: Sequence[OutputValue]) -> dict[str, Any]:
    return {
        "outputs": {value.name: _plain(value.data) for value in values},
        "loss_weights": {value.name: value.loss_weight for value in values if value.loss_weight},
    }


def _plain(data: Array) -> float | list[float]:
    """One number, or the elements in a row."""
    elements: list[float] = data.ravel().tolist()
    return elements[0] if len(elements) == 1 else elements


def _tidy(value: Any) -> Any:
    """The same for JSON: floats with the digits that float32 has, and None for NaN and infinity."""
    if isinstance(value, dict):
        return {key: _tidy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.7g}") if math.isfinite(value) else None
