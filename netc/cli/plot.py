"""`netc plot LOG... -o curve.png`: draws loss, accuracy and learning rate from training logs."""

from __future__ import annotations

import logging
from pathlib import Path

from netc.cli.command import Command
from netc.cli.flags import Flag, Flags
from netc.cli.log_reader import TrainingLog, read_log
from netc.errors import NetcError

log = logging.getLogger(__name__)

FLAGS = (
    Flag(
        "o", "string", "curve.png", "The picture to write; its ending says how: .png, .svg or .pdf.", "FILE"
    ),
    Flag(
        "smooth", "int", 0, "Average the training loss over this many points; 0 chooses by the log's length."
    ),
    Flag(
        "scale",
        "string",
        "auto",
        "The axis of the loss. auto: log where the loss falls a hundredfold.",
        choices=("auto", "linear", "log"),
    ),
    Flag("title", "string", "", "What to write above the curves."),
)


def run(flags: Flags) -> int:
    """Draws the logs named into one picture. Raises NetcError if one of them has nothing to draw."""
    logs = [_read(path) for path in flags.positionals]
    from netc.cli.figure import draw, picture_format  # only now: matplotlib takes its time

    target = Path(flags.o)
    picture_format(target)
    draw(logs, target, smooth=flags.smooth, scale=flags.scale, title=flags.title)
    log.info("Wrote %s", target)
    return 0


def _read(path: str) -> TrainingLog:
    found = read_log(path)
    if not found.points:
        raise NetcError(
            "this log has nothing to plot",
            at=str(found.path),
            expected='lines such as "solver.cpp:239] Iteration 100, loss = 0.5"',
            remedy="give the log of a training run: what it wrote to stderr, or the files of -log_dir",
        )
    return found


COMMAND = Command(
    "plot",
    "draw loss, accuracy and learning rate from training logs",
    run,
    FLAGS,
    positionals=("LOG...",),
    notes="""
        Reads netc's logs and Caffe's, as text or as JSON lines (.jsonl); a folder stands for its newest log.
        Several logs are drawn over each other.
    """,
    examples=("netc plot train.log -o curve.png", "netc plot runs/a runs/b -o compare.svg"),
)
