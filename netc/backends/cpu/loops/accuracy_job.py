"""What the loop of Accuracy works on."""

from __future__ import annotations

from typing import Final

import numpy as np

# Addresses; rows, classes, how many of the best scores count. wrong: one number, the labels of no class.
JOB: Final = np.dtype(
    [(name, "i8") for name in ("scores", "labels", "wrong", "top")]
    + [(name, "i8") for name in ("rows", "classes", "top_k")]
)
