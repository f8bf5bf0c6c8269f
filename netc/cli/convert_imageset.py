"""`netc convert_imageset`: turns images into a database that Data layers read."""

from __future__ import annotations

import logging

from netc.cli.command import Command
from netc.cli.flags import Flag, Flags
from netc.cli.progress import counting

log = logging.getLogger(__name__)

FLAGS = (
    Flag("gray", "bool", False, "Treat the images as grayscale."),
    Flag("shuffle", "bool", False, "Put the images in a random order."),
    Flag("backend", "string", "lmdb", "The kind of database.", choices=("lmdb", "leveldb")),
    Flag("resize_width", "int", 0, "The width to resize to; with a height only, nothing is resized."),
    Flag("resize_height", "int", 0, "The height to resize to; with a width only, nothing is resized."),
    Flag("check_size", "bool", False, "Check that all images have the size of the first."),
    Flag("encoded", "bool", False, "Keep the images encoded; without a resize, as the bytes of their files."),
    Flag("encode_type", "string", "", "The format to encode into, such as png or jpg.", metavar="TYPE"),
    Flag("threads", "int", 0, "Threads that decode; 0 chooses by the processor."),
    Flag("overwrite", "bool", False, "Replace a database that is already there."),
    Flag("seed", "int", None, "The seed of -shuffle; without it, every run has an order of its own."),
)


def run(flags: Flags) -> int:
    """Builds the database; images that cannot be read are skipped and named."""
    from netc.data.convert import convert_imageset

    root, *listed, database = flags.positionals
    with counting("converting", flags.quiet) as progress:
        report = convert_imageset(
            root,
            listed[0] if listed else None,
            database,
            resize_height=flags.resize_height,
            resize_width=flags.resize_width,
            gray=flags.gray,
            shuffle=flags.shuffle,
            check_size=flags.check_size,
            encoded=flags.encoded,
            encode_type=flags.encode_type,
            backend=flags.backend,
            workers=flags.threads or None,
            seed=flags.seed,
            overwrite=flags.overwrite,
            progress=progress,
        )
    for path in (report.list_file, report.label_names_file, report.labels_database):
        if path:
            log.info("Wrote %s", path)
    return 0


COMMAND = Command(
    "convert_imageset",
    "turn images into a database",
    run,
    FLAGS,
    positionals=("ROOT LIST DB", "ROOT DB"),
    notes="""
        LIST has one image a line: its path below ROOT, a space, and its label (a number; several for several
        labels). Without LIST, every folder in ROOT is a class: the list and the labels' names are written
        beside DB.

        Images that cannot be read are skipped and named. The database appears under its name only when it is
        whole.
    """,
    examples=(
        "netc convert_imageset -resize_height 28 -resize_width 28 -gray -shuffle images/ list.txt train_lmdb",
        "netc convert_imageset -encoded photos/ photos_lmdb",
    ),
)
