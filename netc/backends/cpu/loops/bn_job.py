"""What the loops of batch normalisation work on, and their names."""

from __future__ import annotations

from typing import Final

import numpy as np

# Addresses, 0 for what there is not: images (`kept`: a copy of the bottom; `cut_grad`: the top's gradient
# where the ReLU passes it, which is the residual's); a number for each channel; `moves`: two rows: how far
# the bottom's gradient moves with the sum of the top's, and with its sum over x - mean; `lines`: LINES rows
# of floats for each thread; `sums`: SUMS rows of doubles for each. Then: rows, channels, the threads; whether
# a ReLU cuts; whether the statistics are the batch's; whether the gradients of scale and shift are added to
# what is there.
JOB: Final = np.dtype(
    [(name, "i8") for name in ("bottom", "top", "residual", "kept", "top_grad", "bottom_grad", "cut_grad")]
    + [(name, "i8") for name in ("mean", "variance", "factor", "scale", "shift", "moves")]
    + [(name, "i8") for name in ("scale_grad", "shift_grad", "lines", "sums")]
    + [(name, "i8") for name in ("rows", "channels", "threads", "relu", "from_batch")]
    + [(name, "i8") for name in ("adds_scale", "adds_shift")]
    + [("eps", "f8")]
)
LINES: Final = 3
SUMS: Final = 2
LOOPS: Final = "moments", "finish", "normalise", "gradients", "finish_gradients", "bottom_gradient"
