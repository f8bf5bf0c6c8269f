"""What a test net says: its outputs and its loss, averaged over batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from netc.runtime import Net, OutputValue


@dataclass(frozen=True)
class Scores:
    """Means over the batches of one test."""

    loss: float
    outputs: list[OutputValue]


def mean_scores(net: Net, batches: int, is_to_stop: Callable[[], bool]) -> Scores | None:
    """Runs this many batches; None where `is_to_stop`, asked before each of them, said so."""
    loss, sums = 0.0, list[np.ndarray]()
    for _ in range(batches):
        if is_to_stop():
            return None
        loss += net.forward()
        outputs = net.output_values()
        sums = sums or [np.zeros(output.data.shape, output.data.dtype) for output in outputs]
        for total, output in zip(sums, outputs, strict=True):
            total += output.data
    means = [
        OutputValue(output.name, total / batches, output.loss_weight)
        for total, output in zip(sums, outputs, strict=True)
    ]
    return Scores(loss / batches, means)
