"""What the loop of rounding to bfloat16 works on."""

from __future__ import annotations

from typing import Final

import numpy as np

JOB: Final = np.dtype([(name, "i8") for name in ("source", "target", "count")])
