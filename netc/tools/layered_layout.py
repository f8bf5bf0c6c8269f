"""Places boxes in rows so that arrows run one way, with few crossings and short arrows.

After K. Sugiyama, S. Tagawa and M. Toda, "Methods for visual understanding of hierarchical system
structures", 1981: rows by longest path, gaps for arrows that pass rows by, rows ordered by the means of
their neighbours, then moved sideways towards them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

SWEEPS: Final = 12
ROW_GAP: Final = 44.0
BOX_GAP: Final = 28.0
PASSING_GAP: Final = 16.0

Edge = tuple[Hashable, Hashable]


@dataclass(eq=False)
class Place:
    """Where a box lies, or the gap in a row through which an arrow passes (`box` is then None)."""

    box: Hashable | None
    width: float = 0.0
    height: float = 0.0
    row: int = 0
    x: float = 0.0  # of its middle
    y: float = 0.0
    up: list[Place] = field(default_factory=list)
    down: list[Place] = field(default_factory=list)


@dataclass
class Layout:
    """The places of all boxes, those that every arrow goes through (both ends too), and the whole's size."""

    places: dict[Hashable, Place]
    paths: list[list[Place]]
    width: float
    height: float


def lay_out(
    sizes: Mapping[Hashable, tuple[float, float]], edges: Sequence[Edge], row_gap: float = ROW_GAP
) -> Layout:
    """Places boxes of these widths and heights; edges run from earlier to later boxes of `sizes`."""
    places = {box: Place(box, width, height) for box, (width, height) in sizes.items()}
    _set_rows(places, edges)
    rows: list[list[Place]] = [[] for _ in range(1 + max((p.row for p in places.values()), default=0))]
    for place in places.values():
        rows[place.row].append(place)
    paths = [_path(places[start], places[end], rows) for start, end in edges]
    _order(rows)
    _set_x(rows)
    return Layout(places, paths, *_set_y_and_size(rows, row_gap))


def _set_rows(places: dict[Hashable, Place], edges: Sequence[Edge]) -> None:
    """Every box one row below the lowest of those before it; sources right above their first reader."""
    after: dict[Hashable, list[Hashable]] = {box: [] for box in places}
    has_before = set()
    for start, end in edges:
        after[start].append(end)
        has_before.add(end)
    for box in places:
        for end in after[box]:
            places[end].row = max(places[end].row, places[box].row + 1)
    for box, ends in after.items():
        if box not in has_before and ends:
            places[box].row = min(places[end].row for end in ends) - 1


def _path(start: Place, end: Place, rows: list[list[Place]]) -> list[Place]:
    """The places that an arrow goes through, with a gap in every row between."""
    path = [start]
    for row in range(start.row + 1, end.row):
        gap = Place(None, row=row)
        rows[row].append(gap)
        path.append(gap)
    path.append(end)
    for upper, lower in pairwise(path):
        upper.down.append(lower)
        lower.up.append(upper)
    return path


def _order(rows: list[list[Place]]) -> None:
    """Sorts each row by the mean position of its neighbours above, then below, and so on."""
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        for row in rows if downwards else rows[::-1]:
            position = {place: i for other in rows for i, place in enumerate(other)}
            keys = {}
            for i, place in enumerate(row):
                near = place.up if downwards else place.down
                keys[place] = sum(position[n] for n in near) / len(near) if near else i
            row.sort(key=keys.__getitem__)


def _set_x(rows: list[list[Place]]) -> None:
    """Moves places towards the means of their neighbours, as far as those beside them leave room."""
    for row in rows:
        at = 0.0
        for place in row:
            place.x = at + place.width / 2
            at += place.width + BOX_GAP
    for sweep in range(2 * SWEEPS):
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            wanted = []
            for place in row:
                near = place.up if sweep % 2 == 0 else place.down
                wanted.append(sum(n.x for n in near) / len(near) if near else place.x)
            _spread(row, wanted)


def _spread(row: list[Place], wanted: list[float]) -> None:
    """The wanted positions, pushed apart: the mean of pushing to the right and pushing to the left."""
    right, left = list(wanted), list(wanted)
    for i in range(1, len(row)):
        right[i] = max(right[i], right[i - 1] + _distance(row[i - 1], row[i]))
    for i in reversed(range(len(row) - 1)):
        left[i] = min(left[i], left[i + 1] - _distance(row[i], row[i + 1]))
    for place, a, b in zip(row, right, left, strict=True):
        place.x = (a + b) / 2


def _distance(a: Place, b: Place) -> float:
    gap = BOX_GAP if a.box is not None and b.box is not None else PASSING_GAP
    return (a.width + b.width) / 2 + gap


def _set_y_and_size(rows: list[list[Place]], row_gap: float) -> tuple[float, float]:
    top = 0.0
    for row in rows:
        tallest = max((place.height for place in row), default=0.0)
        for place in row:
            place.y = top + tallest / 2
            if place.box is None:
                place.height = tallest
        top += tallest + row_gap
    everything = [place for row in rows for place in row]
    least = min((place.x - place.width / 2 for place in everything), default=0.0)
    for place in everything:
        place.x -= least
    width = max((place.x + place.width / 2 for place in everything), default=0.0)
    return width, max(0.0, top - row_gap)
