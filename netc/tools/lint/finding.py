"""A finding: something in a net or a solver that is likely wrong, its place, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

from netc.errors import Location

SEVERITIES: Final = ("error", "warning", "note")  # cannot run; probably a mistake; worth knowing

View = TypeVar("View")


@dataclass(frozen=True)
class Hit:
    """What a rule says of one place."""

    what: str
    at: Location | None
    remedy: str
    layer: str = ""


@dataclass(frozen=True)
class Rule(Generic[View]):
    """One thing to look for; `check` yields the places in a view where it is found."""

    name: str
    severity: str
    about: str
    check: Callable[[View], Iterator[Hit]]

    def findings(self, view: View) -> Iterator[Finding]:
        for hit in self.check(view):
            yield Finding(self.name, self.severity, hit.what, hit.at, hit.layer, hit.remedy)


@dataclass(frozen=True)
class Finding:
    """One place that a rule found."""

    rule: str
    severity: str
    what: str
    at: Location | None
    layer: str
    remedy: str

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "what": self.what,
            "file": self.at.file if self.at else None,
            "line": self.at.line if self.at else None,
            "column": self.at.column if self.at else None,
            "layer": self.layer or None,
            "remedy": self.remedy,
        }


def in_file_order(findings: list[Finding]) -> list[Finding]:
    """Each finding once, by file and line; what is found in both phases of a net is said of the first."""

    def place(finding: Finding) -> tuple[str, int, int]:
        at = finding.at or Location("")
        return at.file, at.line, at.column

    once: dict[Finding, Finding] = {}
    for finding in findings:
        once.setdefault(replace(finding, what=re.sub("phase (TRAIN|TEST)", "", finding.what)), finding)
    return sorted(once.values(), key=place)
