"""The log in glog's form: `I1121 00:30:41.818488 30039 solver.cpp:239] message`, to stderr and to a file."""

from __future__ import annotations

import getpass
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, TextIO

from netc.cli.flags import Flags
from netc.errors import NetcError

log = logging.getLogger(__name__)

SEVERITIES: Final = (  # the least level that a letter stands for
    (logging.CRITICAL, "F"),
    (logging.ERROR, "E"),
    (logging.WARNING, "W"),
    (logging.NOTSET, "I"),
)
GLOG_LEVELS: Final = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


class GlogFormatter(logging.Formatter):
    """glog's classic prefix, with month and day only: parsers of Caffe's logs know this one best.

    Where a record has a `source` (given through `extra`), it stands in place of Python's file and line; a
    message of several lines has the prefix on its first line only, as in glog.
    """

    def format(self, record: logging.LogRecord) -> str:
        letter = next(letter for level, letter in SEVERITIES if record.levelno >= level)
        moment = datetime.fromtimestamp(record.created).strftime("%m%d %H:%M:%S.%f")
        source = getattr(record, "source", None) or f"{record.filename}:{record.lineno}"
        text = f"{letter}{moment} {threading.get_native_id():5d} {source}] {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class TerminalHandler(logging.Handler):
    """Writes lines to stderr. While a bar is drawn, `write` is the bar's, which puts them above it."""

    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.setFormatter(GlogFormatter())
        self.write: Callable[[str], None] = write_to_stderr

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "file_only", False):
            return
        try:
            self.write(self.format(record))
        except Exception:
            self.handleError(record)


def write_to_stderr(line: str) -> None:
    """One line, at once; none from when nobody reads them any more.

    Ctrl-C ends the `tee` of a pipeline as well: the run behind it must live to take its snapshot.
    """
    try:
        print(line, file=sys.stderr, flush=True)
    except BrokenPipeError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Points a stream whose reader is gone at the null device, so that no later write or flush fails."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def terminal_handler() -> TerminalHandler | None:
    """The handler that writes to stderr, if a log session is open."""
    handlers = logging.getLogger("netc").handlers
    return next((handler for handler in handlers if isinstance(handler, TerminalHandler)), None)


def log_file() -> Path | None:
    """The file that the open log session writes to, if any."""
    handlers = logging.getLogger("netc").handlers
    return next((Path(each.baseFilename) for each in handlers if isinstance(each, logging.FileHandler)), None)


@contextmanager
def log_session(flags: Flags) -> Iterator[None]:
    """The log of one command, set up from its flags, taken down at the end. Errors also go to its file."""
    level = _level(flags.minloglevel)
    logger = logging.getLogger("netc")
    with ExitStack() as stack:
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(level)
        terminal = TerminalHandler(max(level, logging.WARNING) if flags.quiet else level)
        _attach(stack, logger, terminal)
        if flags.log_dir:
            _attach(stack, logger, open_log_file(Path(flags.log_dir)))
        try:
            yield
        except KeyboardInterrupt:
            log.error("interrupted", extra={"file_only": True})
            raise
        except Exception as error:
            defect = not isinstance(error, NetcError | OSError)
            log.error("%s", error, extra={"file_only": True}, exc_info=defect)
            raise


def log_file_path(folder: Path, moment: float | None = None) -> Path:
    """Where this process logs: `netc.<host>.<user>.log.INFO.<date>-<time>.<pid>`, as glog names its files."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(moment))
    host, user = (re.sub(r"[^\w-]", "_", part) for part in (socket.gethostname(), _user()))
    return folder / f"netc.{host}.{user}.log.INFO.{stamp}.{os.getpid()}"


def open_log_file(folder: Path) -> logging.FileHandler:
    """A handler that writes this process's file, with glog's heading; `netc.INFO` links to the newest.

    Raises NetcError if the folder cannot be made or written to.
    """
    path = log_file_path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(_heading(), encoding="utf-8")
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise NetcError(
            f"cannot write a log into {folder}",
            found=error.strerror,
            remedy="give a folder of yours to -log_dir",
        ) from None
    handler.setFormatter(GlogFormatter())
    _link_newest(path)
    return handler


def _heading() -> str:
    return (
        f"Log file created at: {time.strftime('%Y/%m/%d %H:%M:%S')}\n"
        f"Running on machine: {socket.gethostname()}\n"
        "Log line format: [IWEF]mmdd hh:mm:ss.uuuuuu threadid file:line] msg\n"
    )


def _link_newest(path: Path) -> None:
    """Points `netc.INFO` at the newest log; where links are not allowed there is none."""
    spare = path.with_name(f".netc.INFO.{os.getpid()}")
    try:
        spare.symlink_to(path.name)
        spare.replace(path.with_name("netc.INFO"))
    except OSError:
        spare.unlink(missing_ok=True)


def _attach(stack: ExitStack, logger: logging.Logger, handler: logging.Handler) -> None:
    logger.addHandler(handler)
    stack.callback(handler.close)
    stack.callback(logger.removeHandler, handler)


def _level(minloglevel: int) -> int:
    return GLOG_LEVELS[min(max(minloglevel, 0), len(GLOG_LEVELS) - 1)]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many containers
        return str(os.getuid())
