"""`netc draw NET PICTURE`: draws a net as boxes and arrows."""

from __future__ import annotations

import logging
from pathlib import Path

from netc.cli.command import Command
from netc.cli.flags import Flag, Flags, UsageError
from netc.cli.net_flags import LEVEL_FLAGS, SHAPE_FLAG, read_shapes
from netc.cli.text_file import write_text
from netc.errors import NetcError

log = logging.getLogger(__name__)

FLAGS = (
    Flag(
        "rankdir",
        "string",
        "TB",
        "Where arrows run: top to bottom (TB), left to right (LR), or back.",
        choices=("TB", "LR", "BT", "RL"),
    ),
    Flag(
        "phase",
        "string",
        "ALL",
        "The phase to draw, or ALL for the layers of both.",
        choices=("ALL", "TRAIN", "TEST"),
    ),
    Flag("graphviz", "bool", True, "Let Graphviz make an SVG where it is installed."),
    SHAPE_FLAG,
    *LEVEL_FLAGS,
)
GRAPHVIZ_KINDS = (".png", ".pdf", ".jpg", ".ps")


def run(flags: Flags) -> int:
    """Draws the net into a file whose ending says how."""
    source, picture = flags.positionals
    suffix = Path(picture).suffix.lower()
    if suffix not in (".svg", ".dot", ".gv", *GRAPHVIZ_KINDS):
        raise UsageError(
            "the picture's ending does not say how to draw",
            expected=".svg, .dot, .png or .pdf",
            found=suffix or picture,
        )
    shapes = read_shapes(flags.shape)
    from netc.schema.atomic import replacing
    from netc.schema.net import read_net
    from netc.tools.diagram import make_diagram
    from netc.tools.dot import dot_text, has_graphviz, render
    from netc.tools.sketch import Request
    from netc.tools.svg import svg_text

    request = Request(level=flags.level, stages=flags.stage, shapes=shapes)
    diagram = make_diagram(read_net(source), flags.phase, request)
    if suffix in (".dot", ".gv"):
        write_text(picture, dot_text(diagram, flags.rankdir))
    elif has_graphviz() and (suffix != ".svg" or flags.graphviz):
        image = render(dot_text(diagram, flags.rankdir), suffix[1:])
        with replacing(picture) as temporary:
            temporary.write_bytes(image)
    elif suffix == ".svg":
        write_text(picture, svg_text(diagram, flags.rankdir))
    else:
        raise NetcError(
            f"{suffix} pictures need Graphviz, which is not installed",
            remedy="install it (apt install graphviz), or draw an .svg",
        )
    log.info("Drew %d layers to %s", len(diagram.boxes), picture)
    return 0


COMMAND = Command(
    "draw",
    "draw a net as boxes and arrows",
    run,
    FLAGS,
    positionals=("NET PICTURE",),
    first=("model",),
    notes="""
        The picture's ending says how it is drawn: .svg and .dot always, .png and .pdf where Graphviz is
        installed. Layers that run in place stand in the box of the layer before them; arrows bear the shapes
        of blobs where these can be known.
    """,
    examples=(
        "netc draw models/lenet/train_val.prototxt lenet.svg",
        "netc draw -rankdir LR -phase TEST net.prototxt net.png",
    ),
)
