"""`netc compute_image_mean`: the mean image of a database, as transform_param's mean_file wants it."""

from __future__ import annotations

import logging

from netc.cli.command import Command
from netc.cli.flags import Flag, Flags
from netc.cli.progress import counting

log = logging.getLogger(__name__)

FLAGS = (
    Flag(
        "backend",
        "string",
        "",
        "Accepted for old scripts: what the folder really is decides.",
        choices=("", "lmdb", "leveldb"),
        hidden=True,
    ),
)


def run(flags: Flags) -> int:
    """Writes the mean image, if a file is named, and logs the mean of every channel."""
    from netc.data.mean import compute_image_mean

    database, *output = flags.positionals
    with counting("averaging", flags.quiet) as progress:
        means = compute_image_mean(database, output[0] if output else None, progress=progress)
    log.info("Number of channels: %d", len(means), extra={"source": "compute_image_mean.cpp:103"})
    for channel, mean in enumerate(means):
        log.info("mean_value channel [%d]: %g", channel, mean, extra={"source": "compute_image_mean.cpp:112"})
    return 0


COMMAND = Command(
    "compute_image_mean",
    "average the images of a database",
    run,
    FLAGS,
    positionals=("DB [MEAN.binaryproto]",),
    notes="""
        Logs the mean of every channel, for transform_param's mean_value, and writes the mean image, for its
        mean_file.
    """,
    examples=("netc compute_image_mean train_lmdb mean.binaryproto",),
)
