"""The one exception family: where something is wrong, what, expected and found, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn


@dataclass(frozen=True)
class Location:
    """A place in a file; line and column count from 1, 0 where unknown."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        parts = [self.file] + [str(n) for n in (self.line, self.column) if n]
        return ":".join(parts)


class NetcError(Exception):
    """Something a user can mend.

    what: one sentence; at: the file and line; layer, blob: names in the net; expected, found: the two sides
    of a mismatch; chain: the producers that led here, first to last; remedy: what to do.
    """

    def __init__(
        self,
        what: str,
        *,
        at: Location | str | None = None,
        layer: str | None = None,
        blob: str | None = None,
        expected: Any = None,
        found: Any = None,
        chain: Iterable[str] = (),
        remedy: str | None = None,
    ) -> None:
        self.what = what
        self.at = Location(at) if isinstance(at, str) else at
        self.layer = layer
        self.blob = blob
        self.expected = expected
        self.found = found
        self.chain = tuple(chain)
        self.remedy = remedy
        super().__init__(what)

    def __str__(self) -> str:
        where = f"{self.at}: " if self.at else ""
        rows = (
            ("layer", self.layer),
            ("blob", self.blob),
            ("expected", self.expected),
            ("found", self.found),
            ("from", " -> ".join(self.chain) or None),
            ("remedy", self.remedy),
        )
        return "\n".join(
            [where + self.what] + [f"  {label}: {value}" for label, value in rows if value is not None]
        )


class NetcErrors(NetcError):
    """Several errors found in one pass, reported together; `errors` holds them in file order."""

    def __init__(self, errors: Iterable[NetcError]) -> None:
        self.errors = list(errors)
        super().__init__(f"{len(self.errors)} errors", at=self.errors[0].at if self.errors else None)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


def raise_errors(errors: Iterable[NetcError]) -> None:
    """Raises nothing for no errors, the error itself for one, a `NetcErrors` for more."""
    flat: list[NetcError] = []
    for error in errors:
        flat.extend(error.errors if isinstance(error, NetcErrors) else [error])
    if flat:
        _raise(flat)


def _raise(errors: list[NetcError]) -> NoReturn:
    raise errors[0] if len(errors) == 1 else NetcErrors(errors)
