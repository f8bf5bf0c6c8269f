"""What the loops of an inner product's backward pass work on."""

from __future__ import annotations

from typing import Final

import numpy as np

# Addresses (`turned`: dy transposed, (K, M); `packed`: x by tiles of columns); sizes; columns of a panel;
# whether dW is written, not added to.
ADDRESSES: Final = ("bottom", "packed", "turned", "weight", "bottom_grad", "weight_grad", "scratch")
JOB: Final = np.dtype([(name, "i8") for name in (*ADDRESSES, "M", "D", "K", "panel", "fresh")])
