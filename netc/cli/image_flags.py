"""Flags of the commands that show images to a net, and what is made of them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from netc.cli.flags import Flag, Flags, UsageError
from netc.cli.net_flags import NET_FLAGS, choose_device, require

if TYPE_CHECKING:
    import numpy as np

    from netc.runtime import Net
    from netc.tools.image_input import Preparation

IMAGE_FLAGS: Final = (
    Flag("model", "string", "", "The net for use: a deploy prototxt.", metavar="FILE"),
    Flag("weights", "list", [], "Its weights: .caffemodel or .h5 files.", metavar="FILE,FILE"),
    Flag("labels", "string", "", "The names of the classes, one a line.", metavar="FILE"),
    Flag("mean_file", "string", "", "A mean image to take off: .binaryproto or .npy.", metavar="FILE"),
    Flag(
        "mean_value", "list", [], "A mean to take off, one number or one per channel (BGR).", metavar="B,G,R"
    ),
    Flag("scale", "float", 1.0, "What values are multiplied by at the end."),
    Flag("json", "bool", False, "Print JSON for other programs."),
    *NET_FLAGS,
)


def open_net(flags: Flags, example: str) -> Net:
    """The net that the flags name, with its weights, where they say. Raises UsageError where one is
    missing."""
    model = require(flags, "model", example)
    if not flags.weights:
        require(flags, "weights", example)
    backend = choose_device(flags)
    from netc.proto import netc_pb2 as pb
    from netc.runtime import Net

    with without_net_log():
        return Net(
            model,
            pb.TEST,
            level=flags.level,
            stages=flags.stage,
            weights=flags.weights,
            keep="outputs",
            backward=False,
            backend=backend,
        )


@contextmanager
def without_net_log() -> Iterator[None]:
    """Leaves out what the log says while a net is built, warnings aside: it would bury a few answers."""
    logger = logging.getLogger("netc.runtime")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def read_size(flags: Flags, name: str) -> tuple[int, int] | None:
    """The height and width that a flag gives as 256 or 256x320; None where it is not given."""
    text = getattr(flags, name)
    if not text:
        return None
    match = re.fullmatch(r"([1-9]\d*)(?:[x,]([1-9]\d*))?", text)
    if match is None:
        raise UsageError(
            f"flag -{name} cannot be read", expected="256, or height and width: 256x320", found=text
        )
    return int(match[1]), int(match[2] or match[1])


def read_mean_flags(flags: Flags) -> np.ndarray:
    """The mean that the flags give; 0 for none. Raises UsageError."""
    import numpy as np

    from netc.tools.image_input import load_mean

    if flags.mean_file and flags.mean_value:
        raise UsageError("flags -mean_file and -mean_value cannot both be given")
    if flags.mean_file:
        return load_mean(flags.mean_file)
    try:
        return np.array([float(word) for word in flags.mean_value] or [0.0], np.float32)
    except ValueError:
        raise UsageError(
            "flag -mean_value has a value of the wrong type",
            expected="numbers",
            found=",".join(flags.mean_value),
        ) from None


def make_preparation(
    flags: Flags, net: Net, *, resize: tuple[int, int] | None = None, crop: tuple[int, int] | None = None,
    oversample: bool = False,
) -> Preparation:  # fmt: skip
    """How images come into the net's input, whose size `crop` changes where it is given."""
    from netc.tools.image_input import Preparation, image_input

    _, (_, channels, height, width) = image_input(net)
    height, width = crop or (height, width)
    return Preparation(channels, height, width, resize, read_mean_flags(flags), flags.scale, oversample)
