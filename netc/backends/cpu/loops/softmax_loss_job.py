"""What the loops of the softmax loss work on."""

from __future__ import annotations

from typing import Final

import numpy as np

# Addresses; rows, classes; how much a row counts; what a probability is at least. index: the place of each
# label's probability among all of them; wrong: one number, how many labels are no class; weight: of the loss,
# one number.
JOB: Final = np.dtype(
    [(name, "i8") for name in ("labels", "probability", "index", "wrong", "loss", "weight", "slope")]
    + [(name, "i8") for name in ("rows", "classes")]
    + [(name, "f4") for name in ("share", "smallest")]
)
