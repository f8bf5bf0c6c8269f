"""Pictures of nets: boxes for layers, arrows for blobs.

SVG and dot text are always there; PNG, PDF and other kinds are made by Graphviz, where it is installed.
"""

from __future__ import annotations

import os
from pathlib import Path

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.pycaffe.net import Net
from netc.schema.atomic import replacing
from netc.schema.net import ParsedNet, current_net
from netc.schema.positions import Positions
from netc.tools.diagram import ALL_PHASES, Diagram, describe, make_diagram
from netc.tools.dot import dot_text, has_graphviz, render
from netc.tools.svg import svg_text

DIRECTIONS = ("TB", "LR", "BT", "RL")
DOT_KINDS = ("dot", "gv")


def draw_net(
    caffe_net: pb.NetParameter | Net, rankdir: str, ext: str = "png", phase: int | None = None
) -> bytes:
    """A picture of a net, as the bytes of a file.

    caffe_net: a net's message, or a Net. rankdir: where arrows run, "TB" (top to bottom), "LR", "BT" or "RL".
    ext: the kind of file: "svg" and "dot" always, "png", "pdf" and others where Graphviz is installed. phase:
    netc.TRAIN or netc.TEST draws the layers of that phase; None those of both. Raises NetcError.
    """
    if rankdir not in DIRECTIONS:
        raise NetcError("unknown direction of arrows", expected=", ".join(DIRECTIONS), found=rankdir)
    diagram = _diagram(caffe_net, phase)
    kind = ext.removeprefix(".").lower()
    if kind in DOT_KINDS:
        return dot_text(diagram, rankdir).encode()
    if has_graphviz():
        return render(dot_text(diagram, rankdir), kind)
    if kind == "svg":
        return svg_text(diagram, rankdir).encode()
    raise NetcError(
        f"{kind} pictures need Graphviz, which is not installed",
        remedy="install it (apt install graphviz), or draw an svg",
    )


def draw_net_to_file(
    caffe_net: pb.NetParameter | Net,
    filename: str | os.PathLike[str],
    rankdir: str = "LR",
    phase: int | None = None,
) -> None:
    """Writes a picture of a net; the file's ending says of which kind. See `draw_net`. Raises NetcError."""
    picture = draw_net(caffe_net, rankdir, Path(filename).suffix or ".png", phase)
    with replacing(filename) as temporary:
        temporary.write_bytes(picture)


def get_layer_label(layer: pb.LayerParameter, rankdir: str = "LR") -> str:
    """What a layer's box says: its name, its type, and the options that make it what it is.

    In pictures that run sideways each part has a line of its own.
    """
    return (" " if rankdir in ("TB", "BT") else "\n").join([layer.name, describe(layer)])


def get_pooling_types_dict() -> dict[int, str]:
    """The names of the kinds of pooling, by their numbers."""
    return {number: name for name, number in pb.PoolingParameter.PoolMethod.items()}


def _diagram(net: pb.NetParameter | Net, phase: int | None) -> Diagram:
    message = net.to_proto() if isinstance(net, Net) else current_net(net)
    parsed = ParsedNet(message, Positions.unknown(message.name or "the net"))
    return make_diagram(parsed, ALL_PHASES if phase is None else pb.Phase.Name(phase))
