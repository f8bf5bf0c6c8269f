"""`netc help [COMMAND]`: what netc does, or all about one command."""

from __future__ import annotations

from collections.abc import Mapping

from netc.cli.command import Command, help_text
from netc.cli.flags import Flags, UsageError, closest


def help_on(commands: Mapping[str, Command]) -> Command:
    """The command that tells about these, the table that it will stand in itself."""

    def run(flags: Flags) -> int:
        print(help_text(named(commands, flags.positionals[0])) if flags.positionals else overview(commands))
        return 0

    return Command(
        "help", "explain netc, or one command", run, positionals=("[COMMAND]",), usage="", logs=False
    )


def named(commands: Mapping[str, Command], name: str) -> Command:
    """The command of this name. Raises UsageError, with the nearest name, if there is none."""
    if name in commands:
        return commands[name]
    meant = closest(name.replace("-", "_"), commands)
    raise UsageError(
        f"netc has no command {name!r}",
        expected=f"one of {' '.join(commands)}",
        remedy=f"did you mean netc {meant}?" if meant else "netc help",
    )


def overview(commands: Mapping[str, Command]) -> str:
    """The commands, one line each, and where to go from there."""
    width = max(map(len, commands)) + 2
    lines = ["netc: trains and runs Caffe's nets", "", "Usage: netc COMMAND [flags]", "", "Commands:"]
    lines += [f"  {name:{width}}{command.summary}" for name, command in commands.items()]
    lines += ["", "netc help COMMAND tells all about one command."]
    return "\n".join(lines)
