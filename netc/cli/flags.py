"""Flags in gflags' spelling: a table declares them, `parse_flags` reads them from a command's arguments."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from netc.cli.byte_size import EXPECTED, read_bytes
from netc.errors import NetcError


class UsageError(NetcError):
    """A command line that cannot be understood; the program then ends with exit code 2."""


@dataclass(frozen=True)
class Flag:
    """One flag: `-name value`, `-name=value`, the same with two dashes; a bool also as `-name` and `-noname`.

    kind: a key of `KINDS`; metavar: what stands for the value in help; choices: the values allowed, all if
    empty; environment: a variable that gives the default; hidden: accepted for old scripts, left out of help.
    """

    name: str
    kind: str
    default: Any
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    environment: str = ""
    hidden: bool = False


class Flags:
    """A command's flags as attributes; `positionals` in order; `given`: the flags that were typed."""

    def __init__(
        self, values: Mapping[str, Any], positionals: Sequence[str] = (), given: Iterable[str] = ()
    ) -> None:
        self.values = dict(values)
        self.positionals = list(positionals)
        self.given = frozenset(given)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(f"no flag is called {name}") from None

    def __repr__(self) -> str:
        return f"Flags({self.values}, {self.positionals})"


TRUE_WORDS: Final = ("true", "t", "yes", "y", "1")
FALSE_WORDS: Final = ("false", "f", "no", "n", "0")


def _bool(text: str) -> bool:
    word = text.lower()
    if word not in TRUE_WORDS + FALSE_WORDS:
        raise ValueError(text)
    return word in TRUE_WORDS


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


@dataclass(frozen=True)
class Kind:
    """How a value is read, and what is said about it."""

    read: Callable[[str], Any]
    expected: str
    metavar: str


KINDS: Final[Mapping[str, Kind]] = {
    "string": Kind(str, "text", "TEXT"),
    "int": Kind(int, "a whole number", "N"),
    "float": Kind(float, "a number", "X"),
    "bool": Kind(_bool, "true or false", ""),
    "list": Kind(_list, "values separated by commas", "A,B"),
    "size": Kind(read_bytes, EXPECTED, "BYTES"),
}


def parse_flags(
    table: Sequence[Flag], arguments: Sequence[str], environment: Mapping[str, str] = os.environ
) -> Flags:
    """The flags and positional arguments in `arguments`, which may be mixed; after `--` all are positional.

    As in gflags, a flag that is no bool takes the next argument as its value whatever it begins with (so
    `-level -1` works), unless that is itself one of the flags. Hyphens in a name count as underscores.
    Raises UsageError for an unknown flag, a missing value, or one of the wrong type.
    """
    known = {flag.name: flag for flag in table}
    values = {flag.name: _default(flag, environment) for flag in table}
    given: set[str] = set()
    positionals: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            positionals += rest
            break
        if not is_flag(argument):
            positionals.append(argument)
            continue
        name, text = split_flag(argument)
        flag, text = _match(known, argument, name, text)
        if text is None:
            if not rest or _spells_flag(known, rest[0]):
                raise _missing(flag, argument, rest)
            text = rest.pop(0)
        values[flag.name] = _read(flag, text, argument.split("=")[0])
        given.add(flag.name)
    return Flags(values, positionals, given)


def is_flag(argument: str) -> bool:
    """Whether an argument is written as a flag; a lone `-`, `--` and a negative number are not."""
    return argument.startswith("-") and argument.strip("-") != "" and not _is_number(argument)


def split_flag(argument: str) -> tuple[str, str | None]:
    """`--name=value` as ("name", "value"); the value is None where there is no `=`."""
    name, equals, text = argument.removeprefix("-").removeprefix("-").partition("=")
    return name.replace("-", "_"), text if equals else None


def closest(word: str, words: Iterable[str]) -> str | None:
    """The word that was probably meant, if one is near enough."""
    near = difflib.get_close_matches(word.lower(), list(words), n=1, cutoff=0.6)
    return near[0] if near else None


def spellings(flags: Iterable[Flag]) -> str:
    """The flags' names in one line, as messages list them."""
    return " ".join(f"-{flag.name}" for flag in flags if not flag.hidden)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _default(flag: Flag, environment: Mapping[str, str]) -> Any:
    if flag.environment in environment:
        return _read(flag, environment[flag.environment], flag.environment)
    return list(flag.default) if flag.kind == "list" else flag.default


def _match(known: Mapping[str, Flag], argument: str, name: str, text: str | None) -> tuple[Flag, str | None]:
    """The flag that `name` spells, and its value's text: None if that is still to come."""
    flag = known.get(name)
    if flag is not None:
        return flag, "true" if flag.kind == "bool" and text is None else text
    negated = known.get(name.removeprefix("no"))
    if negated is not None and negated.kind == "bool" and text is None:
        return negated, "false"
    meant = closest(name, [flag.name for flag in known.values() if not flag.hidden])
    raise UsageError(
        f"unknown flag {argument.split('=')[0]}",
        expected=f"one of {spellings(known.values())}",
        remedy=f"did you mean -{meant}?" if meant else None,
    )


def _spells_flag(known: Mapping[str, Flag], argument: str) -> bool:
    return is_flag(argument) and split_flag(argument)[0] in known


def _missing(flag: Flag, argument: str, rest: Sequence[str]) -> UsageError:
    return UsageError(
        f"flag {argument} has no value",
        expected=KINDS[flag.kind].expected,
        found=f"the flag {rest[0]}" if rest else "the end of the command line",
        remedy=f"write {argument} {flag.metavar or KINDS[flag.kind].metavar}",
    )


def _read(flag: Flag, text: str, spelling: str) -> Any:
    try:
        value = KINDS[flag.kind].read(text)
    except ValueError:
        raise UsageError(
            f"flag {spelling} has a value of the wrong type",
            expected=KINDS[flag.kind].expected,
            found=repr(text),
        ) from None
    if flag.choices and value not in flag.choices:
        meant = closest(text, flag.choices)
        raise UsageError(
            f"flag {spelling} has a value that it does not know",
            expected=" or ".join(flag.choices),
            found=repr(text),
            remedy=f"did you mean {meant}?" if meant else None,
        )
    return value
