"""What a command is: its name, its table of flags, the text of its help, and the function that runs it."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from netc.cli.flags import KINDS, Flag, Flags, UsageError, parse_flags

EVERY_COMMAND: Final = (
    Flag("help", "bool", False, "Show this text and stop."),
    Flag("debug", "bool", False, "On an error, show Python's traceback as well."),
    # Common abbreviations and glog's own flags, so that scripts written for Caffe run unchanged.
    Flag("h", "bool", False, "As -help.", hidden=True),
    Flag("helpshort", "bool", False, "As -help.", hidden=True),
)
LOG_FLAGS: Final = (
    Flag(
        "log_dir",
        "string",
        "",
        "Also write the log into this folder: as text under glog's name, and as JSON lines.",
        metavar="DIR",
        environment="GLOG_log_dir",
    ),
    Flag("quiet", "bool", False, "Show only warnings and errors, and no bar; log files stay complete."),
    Flag(
        "minloglevel",
        "int",
        0,
        "Drop messages below this level everywhere: 0 information, 1 warnings, 2 errors.",
        environment="GLOG_minloglevel",
    ),
    Flag("logtostderr", "bool", True, "The log always goes to stderr.", hidden=True),
    Flag("alsologtostderr", "bool", True, "The log always goes to stderr.", hidden=True),
)

FILES: Final = (  # endings of files' names, and the flags that take such files
    (".prototxt", "solver"),
    (".prototxt", "model"),
    (".caffemodel", "weights"),
    (".caffemodel.h5", "weights"),
    (".solverstate", "snapshot"),
    (".solverstate.h5", "snapshot"),
)


@dataclass(frozen=True)
class Command:
    """One command.

    positionals: the forms its positional arguments may take, e.g. ("ROOT LIST DB",); first: the flags that
    may give the first of them, as they do in other commands.
    """

    name: str
    summary: str
    run: Callable[[Flags], int]
    flags: tuple[Flag, ...] = ()
    positionals: tuple[str, ...] = ("",)
    first: tuple[str, ...] = ()
    usage: str = "[flags]"  # what stands behind the name, positional arguments left out
    notes: str = ""
    examples: tuple[str, ...] = ()
    logs: bool = True  # whether it takes the log's flags

    @property
    def table(self) -> tuple[Flag, ...]:
        """All flags that the command takes."""
        return (*self.own_flags, *(LOG_FLAGS if self.logs else ()), *EVERY_COMMAND)

    @property
    def own_flags(self) -> tuple[Flag, ...]:
        """Those that are not every command's."""
        word = self.positionals[0].split()[0].removesuffix("...") if self.first else ""
        first = (Flag(name, "string", "", f"In place of {word}.", metavar="FILE") for name in self.first)
        return (*first, *self.flags)

    def parse(self, arguments: Sequence[str]) -> Flags:
        """The flags in `arguments`. Raises UsageError; with -help, the positionals are not looked at."""
        flags = parse_flags(self.table, arguments)
        flags.positionals[:0] = [flags.values[name] for name in self.first if name in flags.given]
        if not asks_for_help(flags):
            self._check_count(flags.positionals)
        return flags

    def _check_count(self, positionals: Sequence[str]) -> None:
        forms = self.positionals
        if any(_takes(form, len(positionals)) for form in forms):
            return
        raise UsageError(
            f"netc {self.name} cannot make sense of its arguments",
            expected=" or ".join(form or "no arguments, only flags" for form in forms),
            found=" ".join(positionals) or "nothing",
            remedy=self._remedy(positionals),
        )

    def _remedy(self, positionals: Sequence[str]) -> str:
        if any(word.lower() in ("true", "false") for word in positionals):
            return "a true-or-false flag takes its value with '=': -gray=false, or -nogray"
        named = [self._named(word) for word in positionals]
        if all(named) and not any(self.positionals):
            return " ".join(["netc", self.name, *named])
        return f"netc help {self.name}"

    def _named(self, file: str) -> str:
        """A file behind the flag that takes such files; nothing where the command has none."""
        takers = (flag for ending, flag in FILES if file.endswith(ending))
        known = {flag.name for flag in self.own_flags}
        return next((f"-{flag} {file}" for flag in takers if flag in known), "")


def _takes(form: str, count: int) -> bool:
    words = form.split()
    if words and words[-1].endswith("..."):
        return count >= len(words)
    optional = sum(word.startswith("[") for word in words)
    return len(words) - optional <= count <= len(words)


def asks_for_help(flags: Flags) -> bool:
    """Whether -help was given in one of its spellings."""
    return bool(flags.help or flags.h or flags.helpshort)


def help_text(command: Command) -> str:
    """The help of one command: usage, notes, flags with types and defaults, examples."""
    lines = [f"netc {command.name}: {command.summary}", "", "Usage:"]
    for form in command.positionals:
        lines.append("  " + " ".join(["netc", command.name, *command.usage.split(), *form.split()]))
    if command.notes:
        for paragraph in textwrap.dedent(command.notes).strip().split("\n\n"):
            lines += ["", _fill(paragraph, "")]
    own = command.own_flags
    if own:
        lines += ["", "Flags:"] + [_flag_text(flag) for flag in own if not flag.hidden]
    general = [flag for flag in command.table[len(own) :] if not flag.hidden]
    lines += ["", "General flags:"] + [_flag_text(flag) for flag in general]
    if command.examples:
        lines += ["", "Examples:"] + [f"  {example}" for example in command.examples]
    lines += ["", "Flags may stand anywhere, as -flag value, -flag=value, --flag value or --flag=value."]
    return "\n".join(lines)


def _flag_text(flag: Flag) -> str:
    """A flag's spelling, and below it what it does, indented."""
    metavar = flag.metavar or "|".join(flag.choices) or KINDS[flag.kind].metavar
    about = flag.help
    if flag.default not in ("", None, False, []):
        about += f" Default: {'-' + flag.name if flag.default is True else flag.default}."
    return f"  -{flag.name} {metavar}".rstrip() + "\n" + _fill(about, " " * 6)


def _fill(text: str, indent: str) -> str:
    width = max(40, min(100, shutil.get_terminal_size((100, 24)).columns))
    return textwrap.fill(
        " ".join(text.split()), width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
