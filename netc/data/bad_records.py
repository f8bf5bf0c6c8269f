"""What happens to records that do not decode: each is named once, its place is taken by a neighbour, too many
stop the run.

The record's place in its batch goes to the next record of the batch that decodes (to the one before, for the
last ones), so that the position in the database, and with it every later batch, is the same as if it had
decoded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from netc.data.source import Origin

log = logging.getLogger(__name__)

ALWAYS_TOLERATED = 10  # this many different bad records never stop a run ...
TOLERATED_SHARE = 0.01  # ... nor does this share of all records

Item = TypeVar("Item")


class Undecodable(Exception):
    """A record or an image file that cannot be turned into pixels."""


@dataclass(frozen=True)
class BadRecord:
    """A record that was left out: its key or path, and why."""

    key: str
    why: str


class BadRecords:
    """The bad records met so far by one source."""

    def __init__(self, origin: Origin, where: str, total: int | None) -> None:
        """where: the file they are read from; total: how many records there are, None where unknown."""
        self.origin = origin
        self._where = where
        self._limit = max(ALWAYS_TOLERATED, int(TOLERATED_SHARE * (total or 0)))
        self._known: dict[str, str] = {}

    def report(self, found: Iterable[BadRecord]) -> None:
        """Warns of each new one; raises NetcError once there are too many, and from then on."""
        for bad in found:
            if bad.key not in self._known:
                self._known[bad.key] = bad.why
                log.warning("%s: skipped record %s: %s", self._where, bad.key, bad.why)
        if len(self._known) > self._limit:
            key, why = list(self._known.items())[-1]
            raise self.origin.error(
                f"too many records of {self._where} cannot be read; the last is {key}: {why}",
                expected=f"at most {self._limit}",
                found=len(self._known),
                remedy="make the data again, or remove the records named in the warnings above",
            )


def fill_gaps(items: Sequence[Item | None]) -> list[Item] | None:
    """Each None replaced by the next item that is there (the last one, at the end); None if there is none."""
    filled: list[Item | None] = list(items)
    following: Item | None = None
    for i in range(len(filled) - 1, -1, -1):
        if filled[i] is None:
            filled[i] = following
        following = filled[i]
    for i in range(1, len(filled)):
        if filled[i] is None:
            filled[i] = filled[i - 1]
    return [item for item in filled if item is not None] if filled and filled[0] is not None else None
