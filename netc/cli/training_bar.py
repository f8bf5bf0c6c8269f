"""The progress bar of `netc train`, and what moves it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from netc.cli.hooks import images_per_iteration
from netc.cli.progress import progress_bar
from netc.solver import Solver
from netc.solver.hooks import Hook

REDRAW_SECONDS: Final = 0.25
SPEED_MEMORY: Final = 0.8  # how much of the speed shown comes from before the last redraw


@contextmanager
def training_bar() -> Iterator[Progress]:
    """The bar of a training run, for `ProgressHook` to fill."""
    columns = (
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with progress_bar(*columns, expand=True) as progress:
        yield progress


class ProgressHook(Hook):
    """Keeps the bar at the solver's iteration, with images (or iterations) a second, loss and lr."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.drawn_at = 0.0
        self.drawn_iter = 0
        self.speed = 0.0  # iterations a second
        self.images = 0

    def on_start(self, solver: Solver) -> None:
        self.task = self.progress.add_task(
            "training", total=solver.param.max_iter, completed=solver.iter, speed="", figures=""
        )
        self.images = images_per_iteration(solver)
        self.drawn_at, self.drawn_iter = time.monotonic(), solver.iter

    def on_iteration(self, solver: Solver) -> None:
        now = time.monotonic()
        if now - self.drawn_at < REDRAW_SECONDS:
            return
        newest = (solver.iter - self.drawn_iter) / (now - self.drawn_at)
        self.speed = SPEED_MEMORY * self.speed + (1 - SPEED_MEMORY) * newest if self.speed else newest
        self.drawn_at, self.drawn_iter = now, solver.iter
        speed = f"{self.speed * self.images:,.0f} images/s" if self.images else f"{self.speed:,.1f} iter/s"
        figures = f"loss {solver.smoothed_loss:.4g}  lr {solver.lr:.4g}"
        self.progress.update(self.task, completed=solver.iter, speed=speed, figures=figures)

    def on_end(self, solver: Solver) -> None:
        self.progress.update(self.task, completed=solver.iter)
