"""`netc classify IMAGE...`: says which classes a net sees in images."""

from __future__ import annotations

import json
import logging

from netc.cli.command import Command
from netc.cli.flags import Flag, Flags, UsageError
from netc.cli.image_flags import IMAGE_FLAGS, make_preparation, open_net, read_size
from netc.cli.net_flags import limit_threads
from netc.cli.table import Table

log = logging.getLogger(__name__)

FLAGS = (
    *IMAGE_FLAGS,
    Flag(
        "resize",
        "string",
        "",
        "Resize images to this before cropping; without it, to the crop.",
        metavar="HxW",
    ),
    Flag("crop", "string", "", "Crop to this size; without it, to that of the net's input.", metavar="HxW"),
    Flag("oversample", "bool", False, "Average over ten crops: corners and centre, and mirrored."),
    Flag("top", "int", 5, "How many classes to show."),
    Flag("batch", "int", 10, "How many crops go through the net at once."),
)
EXAMPLE = "netc classify -model deploy.prototxt -weights snap.caffemodel -labels labels.txt cat.jpg"


def run(flags: Flags) -> int:
    """Classifies the images and prints the best classes of each."""
    for name in ("top", "batch"):
        if getattr(flags, name) < 1:
            raise UsageError(f"flag -{name} must be positive", found=getattr(flags, name))
    limit_threads(flags)
    resize, crop = read_size(flags, "resize"), read_size(flags, "crop")
    from netc.tools.classify import best, classify, read_labels
    from netc.tools.image_input import find_images

    paths = find_images(flags.positionals)
    names = read_labels(flags.labels) if flags.labels else None
    net = open_net(flags, EXAMPLE)
    preparation = make_preparation(flags, net, resize=resize, crop=crop, oversample=flags.oversample)
    guesses = {
        path: best(scores, flags.top, names)
        for path, scores in classify(net, paths, preparation, flags.batch)
    }
    if flags.json:
        plain = {path: [guess.__dict__ for guess in found] for path, found in guesses.items()}
        print(json.dumps(plain, indent=2, ensure_ascii=False))
        return 0
    table = Table(("image", "score", "class"), right=frozenset({"score"}))
    for path, found in guesses.items():
        for i, guess in enumerate(found):
            table.add("" if i else path, f"{guess.score:.4f}", guess.name)
    table.show()
    return 0


COMMAND = Command(
    "classify",
    "say which classes a net sees in images",
    run,
    FLAGS,
    positionals=("IMAGE...",),
    notes="""
        IMAGE is a file, or a folder whose images are all taken. Images are prepared as data layers do it:
        bytes in the order blue, green, red, resized bilinearly, cropped in the middle, less the mean, times
        the scale. Give the numbers that the net was trained with: netc deploy writes them down.
    """,
    examples=(
        EXAMPLE,
        "netc classify -model d.prototxt -weights w.caffemodel -mean_value 104,117,123 photos/",
    ),
)
