"""Logging from Python: netc is quiet until `init_log` turns Caffe's log lines on."""

from __future__ import annotations

import logging
import sys
import threading
from datetime import datetime

LEVELS = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)  # glog's 0, 1, 2, 3
SEVERITIES = {logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}

_logger = logging.getLogger("netc")


class LineHandler(logging.StreamHandler):
    """Writes lines as glog does: `I1121 00:30:41.818488 30039 net.cpp:86] message`."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).strftime("%m%d %H:%M:%S.%f")
        source = getattr(record, "source", None) or f"{record.filename}:{record.lineno}"
        letter = SEVERITIES.get(record.levelno, "I")
        return f"{letter}{moment} {threading.get_native_id():5d} {source}] {record.getMessage()}"


def init_log(level: int = 0, verbose: bool = False) -> None:
    """Writes the log to stderr from a level on: 0 all, 1 warnings, 2 errors, 3 fatal ones. Another call
    changes the level.

    verbose: also what netc tells only those who look for a defect.
    """
    _logger.setLevel(logging.DEBUG if verbose else LEVELS[min(max(level, 0), len(LEVELS) - 1)])
    handler = next((each for each in _logger.handlers if isinstance(each, LineHandler)), None)
    if handler is None:
        _logger.addHandler(LineHandler(sys.stderr))
        _logger.propagate = False


def set_logging_disabled(disabled: bool = True) -> None:
    """Silences the log that `init_log` turned on, or lets it speak again."""
    for handler in _logger.handlers:
        if isinstance(handler, LineHandler):
            handler.setLevel(logging.CRITICAL + 1 if disabled else logging.NOTSET)


def log(message: str) -> None:
    """Writes a line of your own into the log."""
    _logger.info("%s", message, stacklevel=2)
