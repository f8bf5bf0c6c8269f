"""What the loops of Winograd's convolution work on."""

from __future__ import annotations

from typing import Final

import numpy as np

LANES: Final = 64  # channels that go through at once
SCRATCH: Final = (36 + 36 + 1) * LANES  # floats of a thread: two tiles and a row of zeros

# Addresses. values: an image-shaped array from the first channel of the group on; points: (36, rows, columns)
# of a block of tiles; filters: the layer's weights from the group's first on; factor, shift: of each channel;
# residual: an image that lies as `values` does, or 0; sums: doubles, a row of channels for each thread. Then:
# the block's first tile and their number; tiles down and across an image; rows and columns of the image, its
# padding; the floats from pixel to pixel, from point to point and from row to row of the points; channels;
# how far filters, channels and cells of a filter lie apart; whether to add to what is there; the cells of a
# tile, or of a filter, along an axis; whether one thread does all of the job by itself; how many copies there
# are of filters' points, and how far they lie apart. slope: of the ReLU, 1 for none.
JOB: Final = np.dtype(
    [(name, "i8") for name in ("values", "points", "filters", "factor", "shift", "residual")]
    + [(name, "i8") for name in ("sums", "scratch")]
    + [(name, "i8") for name in ("first", "count", "down", "across", "height", "width", "top", "left")]
    + [(name, "i8") for name in ("pixel", "plane", "row", "channels", "inputs", "lanes")]
    + [(name, "i8") for name in ("filter_step", "input_step", "cell_step", "adds", "size")]
    + [(name, "i8") for name in ("alone", "copies", "copy_step")]
    + [("slope", "f4")]
)
