"""`netc deploy NET [OUT]`: makes the net for use of a net for training."""

from __future__ import annotations

import logging

from netc.cli.command import Command
from netc.cli.flags import Flag, Flags, UsageError
from netc.cli.net_flags import LEVEL_FLAGS, SHAPE_FLAG, read_shapes
from netc.cli.text_file import write_text

log = logging.getLogger(__name__)

FLAGS = (
    Flag("batch", "int", 1, "The items per pass of the net that is made."),
    SHAPE_FLAG,
    *LEVEL_FLAGS,
)


def run(flags: Flags) -> int:
    """Writes the deploy net to OUT, or prints it."""
    if flags.batch < 1:
        raise UsageError("flag -batch must be positive", found=flags.batch)
    shapes = read_shapes(flags.shape)
    from netc.proto import netc_pb2 as pb
    from netc.schema.net import read_net
    from netc.tools.deploy import make_deploy
    from netc.tools.sketch import Request

    source, *out = flags.positionals
    deployed = make_deploy(read_net(source), Request(pb.TEST, flags.level, flags.stage, flags.batch, shapes))
    for name, why in deployed.dropped.items():
        log.info("Left out layer %s: %s", name, why)
    if deployed.guessed:
        log.warning("the data of %s cannot be read: its shape is a guess", ", ".join(deployed.guessed))
    text = deployed.text(source)
    if not out:
        print(text, end="")
        return 0
    write_text(out[0], text)
    log.info("Wrote %s", out[0])
    return 0


COMMAND = Command(
    "deploy",
    "make the net for use of a net for training",
    run,
    FLAGS,
    positionals=("NET [OUT]",),
    first=("model",),
    notes="""
        NET is a train_val prototxt. Data layers become inputs of the shape that the net saw in its TEST
        phase; layers that need labels go; SoftmaxWithLoss becomes a Softmax called prob. Layers keep their
        names, so that the weights load. Without OUT the net is printed.
    """,
    examples=("netc deploy models/digits/train_val.prototxt build/deploy.prototxt",),
)
