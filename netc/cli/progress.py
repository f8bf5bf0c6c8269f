"""The progress bar on a terminal; where stderr is none, there is no bar and the log lines say it all."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from netc.cli.log import terminal_handler

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


def wants_bar(quiet: bool) -> bool:
    """Whether a bar can and should be drawn."""
    return not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def progress_bar(*columns: str | ProgressColumn, expand: bool = False) -> Iterator[Progress]:
    """A bar on stderr, gone when it ends. Log lines are printed above it meanwhile."""
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text

    console = Console(stderr=True)
    handler = terminal_handler()
    with Progress(*columns, console=console, transient=True, refresh_per_second=4, expand=expand) as progress:
        if handler is None:
            yield progress
            return
        before, handler.write = handler.write, lambda line: console.print(Text(line), soft_wrap=True)
        try:
            yield progress
        finally:
            handler.write = before


@contextmanager
def counting(what: str, quiet: bool) -> Iterator[Callable[[int, int | None], None]]:
    """A bar for counted work: yields its `progress(done, total)`, which does nothing without a bar."""
    if not wants_bar(quiet):
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with progress_bar(*columns) as bar:
        task = bar.add_task(what, total=None, rate="")

        def progress(done: int, total: int | None) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:,.0f}/s" if speed else "")

        yield progress
