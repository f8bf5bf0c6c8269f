"""What a test net says: its outputs and its loss, averaged over batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from netc.runtime import Net, OutputValue
from netc.solver.detection_scores import detection_scores


@dataclass(frozen=True)
class Scores:
    """Means over the batches of one test."""

    loss: float
    outputs: list[OutputValue]


def mean_scores(
    net: Net,
    batches: int,
    is_to_stop: Callable[[], bool],
    ap_version: str = "Integral",
    per_class: bool = False,
) -> Scores | None:
    """Runs this many batches; None where `is_to_stop`, asked before each of them, said so.

    The output of a DetectionEvaluate layer becomes the mean average precision over all batches, by
    `ap_version`; per_class: every class's is logged.
    """
    if not batches:  # `test_iter: 0`, where a test net is wanted but not by the solver
        return Scores(math.nan, [])
    loss, sums = 0.0, list[np.ndarray]()
    detections = detection_scores(net)
    for _ in range(batches):
        if is_to_stop():
            return None
        loss += net.forward()
        outputs = net.output_values()
        for output in outputs:
            if output.name in detections:
                detections[output.name].add(output.data)
        outputs = [output for output in outputs if output.name not in detections]
        sums = sums or [np.zeros(output.data.shape, output.data.dtype) for output in outputs]
        for total, output in zip(sums, outputs, strict=True):
            total += output.data
    means = [
        OutputValue(output.name, total / batches, output.loss_weight)
        for total, output in zip(sums, outputs, strict=True)
    ]
    means += [
        OutputValue(name, np.array(found.mean(ap_version, per_class)), 0.0)
        for name, found in detections.items()
    ]
    return Scores(loss / batches, means)
