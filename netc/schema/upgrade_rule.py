"""What a rule of upgrading is: when it is needed, the change it makes, and what it tells of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from netc.errors import Location
from netc.schema.fields import is_repeated
from netc.schema.positions import Path, Positions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where the message to upgrade stands: the positions of its file, and its path there."""

    positions: Positions
    path: Path = ()

    def at(self, *path: str | int) -> Location:
        return self.positions.at(*self.path, *path)

    def copy(self, origin: Path, path: Path) -> None:
        """Gives the field at `path` the place of the one at `origin`."""
        self.positions.copy((*self.path, *origin), (*self.path, *path))

    def rename(self, change: Callable[[Path], Path | None]) -> None:
        """As `Positions.rename`, for the paths inside this message."""
        depth = len(self.path)

        def change_inside(path: Path) -> Path | None:
            if len(path) == depth or path[:depth] != self.path:
                return path
            changed = change(path[depth:])
            return None if changed is None else (*self.path, *changed)

        self.positions.rename(change_inside)


@dataclass
class Report:
    """What a rule did: changes, and problems, where something was left out as Caffe does. One line each."""

    changes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Rule:
    """One upgrade: when it is needed, and the change itself, made in place; it may raise NetcError.

    begins, ends: Caffe's words in the log before and after, and the places in its source that it names there.
    """

    is_needed: Callable[[Any], bool]
    apply: Callable[[Any, Place], Report]
    begins: tuple[str, str] = ("", "")
    ends: tuple[str, str] = ("", "")


def apply_rules(message: Any, place: Place, rules: tuple[Rule, ...]) -> bool:
    """Applies the rules that are needed, in order, and logs what they change; whether any was needed."""
    applied = False
    for rule in rules:
        if not rule.is_needed(message):
            continue
        words, source = rule.begins
        log.info("Attempting to upgrade %s: %s", words, place.positions.file, extra={"source": source})
        report = rule.apply(message, place)
        for change in report.changes:
            log.info("%s", change)
        for problem in report.problems:
            log.error("%s", problem)
        if report.problems:
            log.error("Had problems upgrading %s (see above); continuing anyway", words)
        else:
            words, source = rule.ends
            log.info("Successfully upgraded %s", words, extra={"source": source})
        applied = True
    return applied


def assign(message: Any, path: tuple[str, ...], value: Any, origin: FieldDescriptor) -> None:
    """Sets the field at `path` from the value of a field `origin`; a repeated field takes one value more."""
    for name in path[:-1]:
        message = getattr(message, name)
    target = message.DESCRIPTOR.fields_by_name[path[-1]]
    if is_repeated(origin):
        getattr(message, target.name).extend(value)
    elif is_repeated(target):
        getattr(message, target.name).append(value)
    elif target.message_type:
        getattr(message, target.name).CopyFrom(value)
    else:
        setattr(message, target.name, value)
