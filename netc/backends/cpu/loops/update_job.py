"""What the loops of the parameters' update work on."""

from __future__ import annotations

from typing import Final

import numpy as np

# One stretch of the arenas; rate: lr_mult; decay: weight_decay * decay_mult.
ROW: Final = np.dtype([("start", "i8"), ("count", "i8"), ("rate", "f8"), ("decay", "f4"), ("unused", "f4")])
# Addresses and counts; what changes from iteration to iteration; the rule's constants. first, second: the
# history; sums: a double for each row; lookahead: 1 + momentum; new, new2: 1 - momentum, 1 - momentum2.
JOB: Final = np.dtype(
    [(name, "i8") for name in ("rows", "row_count", "data", "grad", "first", "second", "sums")]
    + [(name, "f8") for name in ("rate", "correction")]
    + [(name, "f4") for name in ("scale", "l1", "momentum", "momentum2", "delta", "lookahead", "new", "new2")]
)
