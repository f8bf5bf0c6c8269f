"""What a program is compiled for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

# What a compilation does beyond what it must, and can leave.
CHOICES: Final = ("fuse", "layout", "memory", "recompute")


@dataclass
class Demand:
    """What a program is compiled for."""

    backward: bool = True
    holds: bool = False  # parameters stay as they are from one `prepare` to the next
    fresh: bool = False  # a backward pass gives the parameters' gradients anew, rather than adding to them
    keep_all: bool = True  # every blob stays readable after a pass; else only outputs and losses
    poison: bool = False  # fill what is freed with NaN after every step: a check of the plan
    dtype: Any = np.float32
    without: frozenset[str] = frozenset()  # of `CHOICES`
