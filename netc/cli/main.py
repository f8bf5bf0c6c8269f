"""The `netc` program: finds the command, reads its flags, runs it, and turns an error into readable text."""

from __future__ import annotations

import re
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from netc.aliases import be_caffe
from netc.cli import (
    classify,
    compile,
    compute_image_mean,
    convert_imageset,
    deploy,
    detect,
    device_query,
    draw,
    extract_features,
    lint,
    parse_log,
    plot,
    summary,
    test,
    time,
    train,
    upgrade_net_proto_binary,
    upgrade_net_proto_text,
    upgrade_solver_proto_text,
    version,
)
from netc.cli.command import Command, asks_for_help, help_text
from netc.cli.flags import Flags, UsageError, is_flag, split_flag
from netc.cli.help import help_on, named
from netc.cli.log import log_session, silence, write_to_stderr
from netc.errors import NetcError

MODULES: Final = (
    train,
    test,
    time,
    convert_imageset,
    compute_image_mean,
    extract_features,
    classify,
    detect,
    summary,
    compile,
    lint,
    deploy,
    draw,
    plot,
    parse_log,
    device_query,
    upgrade_net_proto_text,
    upgrade_net_proto_binary,
    upgrade_solver_proto_text,
)
COMMANDS: Final[dict[str, Command]] = {module.COMMAND.name: module.COMMAND for module in MODULES}
COMMANDS.update(help=help_on(COMMANDS), version=version.COMMAND)
FLAGS_FOR_COMMANDS: Final = {"version": "version", "help": "help", "h": "help", "helpshort": "help"}

EXIT_ERROR: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 128 + signal.SIGINT  # as shells report a process that a signal ended
EXIT_BROKEN_PIPE: Final = 141  # 128 + SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0 done, 1 an error, 2 a command line without sense."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        silence(sys.stdout)
        return EXIT_BROKEN_PIPE
    except (KeyboardInterrupt, Exception) as error:
        text, code = describe(error)
        if _wants_traceback(words):
            write_to_stderr(traceback.format_exc().rstrip())
        name = next((word for word in words if word in COMMANDS), "")
        write_to_stderr(f"{f'netc {name}'.rstrip()}: {text}")
        return code


def describe(error: BaseException) -> tuple[str, int]:
    """What to tell the user of an error, and the exit code. What only we can mend is a defect."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", EXIT_INTERRUPTED
    if isinstance(error, NetcError):
        return str(error), EXIT_USAGE if isinstance(error, UsageError) else EXIT_ERROR
    if hasattr(error, "in_python_layer"):
        return _in_user_code(error, error.in_python_layer), EXIT_ERROR
    if isinstance(error, OSError):
        return f"the operating system refused: {error}", EXIT_ERROR
    if isinstance(error, MemoryError):
        return f"out of memory: {error}".rstrip(": "), EXIT_ERROR
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("netc"):
        return f"{error}\n  remedy: install netc and what it needs with pip", EXIT_ERROR
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"a defect in netc ({what}); -debug shows where, please report it", EXIT_ERROR


def _in_user_code(error: BaseException, where: str) -> str:
    """An exception in a Python layer, and the way to it through the user's own files."""
    ours = str(Path(__file__).parents[1])
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)]
    lines = traceback.format_list([frame for frame in frames if not frame.filename.startswith("<")])
    return f"{type(error).__name__}: {error}\n  {where}\n{''.join(lines)}".rstrip()


def _dispatch(words: list[str]) -> int:
    command, rest = find_command(words)
    flags = command.parse(rest)
    if asks_for_help(flags):
        print(help_text(command))
        return 0
    return _run(command, flags)


def _run(command: Command, flags: Flags) -> int:
    with suppress(NetcError):  # Python layers that were written for Caffe import it
        be_caffe()
    if not command.logs:
        return command.run(flags)
    with log_session(flags):
        return command.run(flags)


def find_command(words: Sequence[str]) -> tuple[Command, list[str]]:
    """The command that `words` name and the words left over. Flags may stand before it, as with gflags.

    Without a command: help, or the version where -version is asked for. Raises UsageError for anything else.
    """
    if not words:
        return COMMANDS["help"], []
    if not is_flag(words[0]):
        return named(COMMANDS, words[0]), list(words[1:])
    for position, word in enumerate(words):
        if word in COMMANDS:
            return COMMANDS[word], [*words[:position], *words[position + 1 :]]
    name = split_flag(words[0])[0]
    if name in FLAGS_FOR_COMMANDS:
        return COMMANDS[FLAGS_FOR_COMMANDS[name]], []
    raise UsageError("no command is given", expected=f"one of {' '.join(COMMANDS)}", remedy="netc help")


def _wants_traceback(words: Sequence[str]) -> bool:
    """Whether -debug was typed; asked of the words, because an error in the flags has no parsed flags."""
    return any(re.fullmatch(r"--?debug(=(true|t|yes|y|1))?", word, re.IGNORECASE) for word in words)
