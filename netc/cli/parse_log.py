"""`netc parse_log LOG FOLDER`: writes a training log's numbers as two CSV files."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from netc.cli.command import Command
from netc.cli.flags import Flag, Flags
from netc.cli.log_reader import Point, TrainingLog, read_log
from netc.cli.text_file import write_text
from netc.errors import NetcError

log = logging.getLogger(__name__)

FLAGS = (
    Flag("delimiter", "string", ",", "What stands between two columns.", metavar="CHARACTER"),
    Flag("verbose", "bool", False, "As in Caffe; the files written are always named.", hidden=True),
)
COLUMNS: Final = ("NumIters", "Seconds", "LearningRate")
KINDS: Final = (("display", ".train"), ("test", ".test"))


def run(flags: Flags) -> int:
    """Writes FOLDER/LOG.train and FOLDER/LOG.test."""
    path, folder = flags.positionals
    if not Path(folder).is_dir():
        raise NetcError(f"there is no folder {folder}", remedy=f"mkdir -p {folder}")
    found = read_log(path)
    if not found.points:
        raise NetcError(
            "this log has no iterations", at=str(found.path), remedy="give the log of a training run"
        )
    for kind, suffix in KINDS:
        target = Path(folder) / (found.path.name + suffix)
        write_text(target, _table(found, kind, flags.delimiter))
        log.info("Wrote %s", target)
    return 0


def _table(found: TrainingLog, kind: str, delimiter: str) -> str:
    points = [point for point in found.of(kind) if point.outputs]
    outputs = list(dict.fromkeys(name for point in points for name in point.outputs))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *outputs], delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    for point, rate in _rates(found, points):
        seconds = float("nan") if point.seconds is None else point.seconds
        writer.writerow(
            {**dict(zip(COLUMNS, (float(point.iteration), seconds, rate), strict=True)), **point.outputs}
        )
    return text.getvalue()


def _rates(found: TrainingLog, points: list[Point]) -> Iterator[tuple[Point, float]]:
    """Each point with the learning rate of its iteration, or the last one displayed before."""
    displays = [point for point in found.of("display") if point.lr is not None]
    for point in points:
        known = [display.lr for display in displays if display.iteration <= point.iteration]
        rate = known[-1] if known else float("nan")
        yield point, float("nan") if rate is None else rate


COMMAND = Command(
    "parse_log",
    "write a training log's numbers as CSV files",
    run,
    FLAGS,
    positionals=("LOG FOLDER",),
    notes="""
        FOLDER gets LOG.train and LOG.test with the columns NumIters, Seconds, LearningRate and one for each
        output of the net, as Caffe's parse_log.py writes them; but the rate is that of the row's own
        iteration, where Caffe's script shows that of the display before. LOG may be netc's or Caffe's.
    """,
    examples=("netc parse_log train.log .",),
)
