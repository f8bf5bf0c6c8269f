"""What the loop of the depthwise gradient works on."""

from __future__ import annotations

from typing import Final

import numpy as np

# Addresses; images, channels, the sizes of bottom and top, the stride along both axes.
JOB: Final = np.dtype(
    [(name, "i8") for name in ("bottom", "top_grad", "lines", "sums")]
    + [(name, "i8") for name in ("images", "channels", "H", "W", "P", "Q", "stride")]
)
SIZE: Final = 3
CELLS: Final = SIZE * SIZE
