"""What the loops of max pooling work on."""

from __future__ import annotations

from typing import Final

import numpy as np

# Addresses; sizes; whether a ReLU cuts off what is below 0, whether places are kept; the groups of vectors.
# `cells` has for each window the first cell along an axis and the one after its last, counted without
# padding: P rows, then Q columns.
JOB: Final = np.dtype(
    [(name, "i8") for name in ("bottom", "top", "places", "top_grad", "bottom_grad", "cells")]
    + [(name, "i8") for name in ("outer", "inner", "H", "W", "P", "Q", "R", "S", "cuts", "keeps", "groups")]
    + [(name, "i8") for name in ("stride_h", "stride_w", "pad_h", "pad_w")]
)
