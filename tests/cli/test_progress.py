"""The progress bar: on a terminal only, and never in the way of the log."""

import logging
import os
from contextlib import suppress

import pytest

from netc.cli.flags import Flags
from netc.cli.log import log_session
from netc.cli.progress import counting, wants_bar


def test_without_a_terminal_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert not wants_bar(quiet=False)
    with counting("converting", quiet=False) as progress:
        progress(1, 2)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def read_to_end(reader: int) -> str:
    """What a terminal was told, after whoever wrote to it has closed it."""
    pieces = []
    with suppress(OSError):  # the end
        while piece := os.read(reader, 1 << 16):
            pieces.append(piece)
    os.close(reader)
    return b"".join(pieces).decode()


def test_log_lines_are_printed_whole_above_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal of 80 columns: no line is cut or wrapped, none shares a row with the bar."""
    reader, writer = os.openpty()
    long = "x" * 200
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        assert wants_bar(quiet=False)
        assert not wants_bar(quiet=True)
        flags = Flags({"log_dir": "", "quiet": False, "minloglevel": 0})
        with log_session(flags), counting("converting", quiet=False) as progress:
            for done in range(3):
                progress(done, 3)
                logging.getLogger("netc.x").info("line %d [bold]%s", done, long)
        monkeypatch.undo()
    shown = read_to_end(reader)
    for done in range(3):
        assert f"line {done} [bold]{long}\r\n" in shown
