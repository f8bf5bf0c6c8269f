"""Tables: drawn with rich on a terminal, as plain aligned text where the output is piped or kept."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

DRAWN_MARGIN: Final = 2  # what a drawn table is wider than a plain one


def is_drawn() -> bool:
    """Whether stdout is a terminal that can show more than plain text."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


@dataclass
class Table:
    """Rows of text under headings. right: the columns whose text ends flush, as numbers do; total: a last
    row, set apart; notes: lines below."""

    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    right: frozenset[str] = frozenset()
    title: str = ""
    total: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """One more row."""
        self.rows.append(cells)

    def show(self) -> None:
        """Prints the table to stdout: drawn, unless it is too wide for the terminal."""
        rule = self.text().splitlines()[1 + bool(self.title)]
        if is_drawn() and len(rule) + DRAWN_MARGIN <= shutil.get_terminal_size().columns:
            self._show_drawn()
        else:
            print(self.text())

    def text(self) -> str:
        """The table as aligned text, columns two spaces apart."""
        all_rows = [self.columns, *self.rows, *([self.total] if self.total else [])]
        widths = [max(len(row[i]) for row in all_rows) for i in range(len(self.columns))]

        def line(cells: Sequence[str]) -> str:
            aligned = [
                cell.rjust(width) if name in self.right else cell.ljust(width)
                for cell, width, name in zip(cells, widths, self.columns, strict=True)
            ]
            return "  ".join(aligned).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        lines = [self.title] if self.title else []
        lines += [line(self.columns), rule, *(line(row) for row in self.rows)]
        lines += [rule, line(self.total)] if self.total else []
        return "\n".join([*lines, *self.notes])

    def _show_drawn(self) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        drawn = RichTable(
            title=Text(self.title, style="bold") if self.title else None,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_footer=bool(self.total),
            pad_edge=False,
        )
        for i, name in enumerate(self.columns):
            footer = Text(self.total[i], style="bold") if self.total else ""
            drawn.add_column(
                name,
                footer,
                justify="right" if name in self.right else "left",
                overflow="fold",
                style="bold" if i == 0 else None,
            )
        for row in self.rows:
            drawn.add_row(*(Text(cell) for cell in row))
        console = Console()
        console.print(drawn)
        for note in self.notes:
            console.print(Text(note, style="dim"))
