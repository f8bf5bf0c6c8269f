"""What Caffe says in its log of the upgrades of a file, and what netc said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

# Lines that begin so are compared; Caffe's other ones are advice on Caffe's own releases and tools.
COMPARED = ("Attempting", "Successfully", "File already")
LINE = re.compile(r"^[IWE] (?P<source>\S+)\] (?P<words>.*)$", re.MULTILINE)


def caffes_words(log: Path, path: Path) -> list[tuple[str, str]]:
    """Level and words of the compared lines in a log of Caffe's, with the file's path as `path`."""
    name = path.name
    return [
        (match[0][0], match["words"].replace(name, str(path)))
        for match in LINE.finditer(log.read_text())
        if match["words"].startswith(COMPARED)
    ]


def words_of(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Level and words of the compared lines that netc logged."""
    return [
        (record.levelname[0], record.getMessage())
        for record in caplog.records
        if record.getMessage().startswith(COMPARED)
    ]
