"""What the loops of Dropout work on."""

from __future__ import annotations

from typing import Final

import numpy as np

# Addresses; the stream's key; elements. mask: 0 where nobody reads it; draw: one number, which draw of the
# stream it is; least: the 24 bits of the smallest number that is kept; factor: of what is kept.
JOB: Final = np.dtype(
    [(name, "i8") for name in ("values", "results", "mask", "draw")]
    + [(name, "u8") for name in ("seed", "name")]
    + [(name, "i8") for name in ("count", "least")]
    + [("factor", "f4")]
)
