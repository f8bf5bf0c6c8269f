"""`netc help [COMMAND]`: what netc does, or all about one command."""

from __future__ import annotations

from netc.cli.command import Command, help_text
from netc.cli.flags import Flags


def run(flags: Flags) -> int:
    """Prints the overview, or the help of the command named."""
    from netc.cli.main import named_command  # not above: its table of commands holds this one

    print(help_text(named_command(flags.positionals[0])) if flags.positionals else overview())
    return 0


def overview() -> str:
    """The commands, one line each, and where to go from there."""
    from netc.cli.main import COMMANDS

    width = max(map(len, COMMANDS)) + 2
    lines = ["netc: trains and runs Caffe's nets", "", "Usage: netc COMMAND [flags]", "", "Commands:"]
    lines += [f"  {name:{width}}{command.summary}" for name, command in COMMANDS.items()]
    lines += ["", "netc help COMMAND tells all about one command."]
    return "\n".join(lines)


COMMAND = Command(
    "help", "explain netc, or one command", run, positionals=("[COMMAND]",), usage="", logs=False
)
