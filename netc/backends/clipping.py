"""How far gradients are scaled down where the solver limits their norm."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


def clip_scale(norm: float, most: float) -> float:
    """What brings gradients of this L2 norm down to `most`; 1 where they are not above it.

    A norm that is not a number clips nothing. Says so in Caffe's words.
    """
    if not norm > most:
        return 1.0
    scale = most / norm
    log.info(
        "Gradient clipping: scaling down gradients (L2 norm %g > %g) by scale factor %g",
        norm,
        most,
        scale,
        extra={"source": "sgd_solver.cpp:93"},
    )
    return scale
