"""What the loops of LRN work on."""

from __future__ import annotations

from typing import Final

import numpy as np

# Addresses; rows, channels, the channels on each side of a window's middle; s = k + weight * sum of squares.
JOB: Final = np.dtype(
    [(name, "i8") for name in ("bottom", "top", "top_grad", "bottom_grad", "scratch")]
    + [(name, "i8") for name in ("rows", "channels", "half")]
    + [(name, "f4") for name in ("k", "weight")]
)
SCRATCH_ROWS: Final = 3
