"""What the loops of an inner product's backward pass work on."""

from __future__ import annotations

from typing import Final

import numpy as np

# Addresses (`turned`: dy transposed, (K, M)); sizes; columns of a panel; whether dW is written, not added to.
JOB: Final = np.dtype(
    [(name, "i8") for name in ("bottom", "turned", "weight", "bottom_grad", "weight_grad", "scratch")]
    + [(name, "i8") for name in ("M", "D", "K", "panel", "fresh")]
)
