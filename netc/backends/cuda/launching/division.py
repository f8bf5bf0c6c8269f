"""Numbers that kernels divide indices by: kernels/division.cuh's other half."""

from __future__ import annotations

import numpy as np


def divisor(n: int) -> tuple[np.uint32, np.uint64]:
    """The two arguments that make a `Divisor`, for n from 1 to 2^32 - 1."""
    return np.uint32(n), np.uint64(0 if n == 1 else -(-(1 << 64) // n))
