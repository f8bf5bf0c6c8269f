"""What a solver continues from, however it is stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from netc.schema.blobs import Array

LONGEST_PATH: Final = 1 << 16  # bytes of `learned_net`


@dataclass
class SolverState:
    """What a solver continues from.

    iteration: updates made; learned_net: the weights file, as written, relative to the working directory of
    the run; history: the update rule's arrays, one for each learnable parameter, then the second ones of Adam
    and AdaDelta; current_step: how many steps of the rate have passed (step, multistep).
    """

    iteration: int = 0
    learned_net: str = ""
    history: list[Array] = field(default_factory=list)
    current_step: int = 0
