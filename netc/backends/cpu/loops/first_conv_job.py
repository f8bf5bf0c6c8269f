"""What the loop of a first convolution's gradient works on."""

from __future__ import annotations

from typing import Final

import numpy as np

# Addresses; then counts of floats, rows, pixels. stripe, panels, sums: a part for each thread; sums: of taps
# x filters, filled up to whole tiles, and of the biases; offsets: of each tap in a stripe, in bytes; rows: of
# the top, in a piece; pieces: of an image; stripe_height: rows that a whole piece sees. The steps are dy's:
# from pixel to pixel, from one vector of filters to the next, within such a vector, from image to image.
JOB: Final = np.dtype(
    [(name, "i8") for name in ("bottom", "top", "top_grad", "offsets", "stripe", "panels", "sums")]
    + [(name, "i8") for name in ("images", "channels", "height", "width", "before_h", "before_w")]
    + [(name, "i8") for name in ("filters", "taps", "out_height", "out_width", "stride_h", "stride_w")]
    + [(name, "i8") for name in ("pixel_step", "vector_step", "lane_step", "image_step")]
    + [(name, "i8") for name in ("rows", "pieces", "stripe_height", "stripe_width")]
    + [("slope", "f4")]
)
# Tiles that fill the registers and leave some for operands: floats of a vector, vectors of filters, taps.
TILES: Final = ((8, 1, 12), (8, 2, 6), (8, 3, 4), (16, 1, 24), (16, 2, 12), (16, 4, 6))


def loop_name(tile: tuple[int, int, int], relu: bool | int) -> str:
    """The name in LOOPS of a tile's loop, with or without a ReLU."""
    return "x".join(map(str, tile)) + (" relu" if relu else "")
