"""How good the boxes are that a net finds: average precision, from the rows of DetectionEvaluate layers."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from netc.errors import NetcError
from netc.runtime import Net

log = logging.getLogger(__name__)

NO_IMAGE = -1
SAME_RECALL = 1e-6
Curve = np.ndarray  # of precisions or recalls, after each box that was found, the best first


def _eleven_points(precision: Curve, recall: Curve) -> float:
    """The mean over recalls of 0, 0.1 .. 1 of the best precision at that recall or more. (VOC 2007)"""
    best = [precision[recall >= point / 10].max(initial=0) for point in range(11)]
    return float(np.mean(best))


def _integral(precision: Curve, recall: Curve) -> float:
    """The area below the precisions over the recalls."""
    steps = np.diff(recall, prepend=0)
    return float((precision * np.where(steps > SAME_RECALL, steps, 0)).sum())


def _max_integral(precision: Curve, recall: Curve) -> float:
    """The area below the best precisions at each recall or more. (VOC 2010 and later, ILSVRC)"""
    return _integral(np.maximum.accumulate(precision[::-1])[::-1], recall)


# The solver's `ap_version`.
VERSIONS: dict[str, Callable[[Curve, Curve], float]] = {
    "11point": _eleven_points,
    "MaxIntegral": _max_integral,
    "Integral": _integral,
}


def average_precision(found: np.ndarray, positives: int, version: str = "Integral") -> float:
    """The average precision of a class; 0 where nothing was found or there is nothing to be found.

    found: (n, 3), score, true positive and false positive of each box; positives: how many true boxes there
    are. Raises NetcError where there is no such version.
    """
    if version not in VERSIONS:
        raise NetcError("unknown ap_version", expected=", ".join(VERSIONS), found=version)
    if len(found) == 0 or positives == 0:
        return 0.0
    found = found[np.argsort(-found[:, 0], kind="stable")]
    right, wrong = found[:, 1].cumsum(), found[:, 2].cumsum()
    return VERSIONS[version](right / (right + wrong), right / positives)


class DetectionScores:
    """The rows of one DetectionEvaluate top, gathered over the batches of a test."""

    def __init__(self) -> None:
        self._positives: dict[int, int] = defaultdict(int)
        self._found: dict[int, list[np.ndarray]] = defaultdict(list)

    def add(self, top: np.ndarray) -> None:
        """The top after one batch: (1, 1, rows, 5)."""
        rows = np.asarray(top, float).reshape(-1, 5)
        is_count = rows[:, 0] == NO_IMAGE
        for _, label, positives, _, _ in rows[is_count].tolist():
            self._positives[int(label)] += int(positives)
        judged = rows[~is_count & (rows[:, 3:].sum(axis=1) > 0)]  # what counts neither way is left out
        for label in np.unique(judged[:, 1]):
            self._found[int(label)].append(judged[judged[:, 1] == label, 2:])

    def by_class(self, version: str) -> dict[int, float]:
        """The average precision of every class."""
        none = np.zeros((0, 3))
        return {
            label: average_precision(np.concatenate([none, *self._found.get(label, [])]), positives, version)
            for label, positives in sorted(self._positives.items())
        }

    def mean(self, version: str, per_class: bool = False) -> float:
        """The mean average precision over the classes. per_class: logs each one's."""
        precisions = self.by_class(version)
        for label, precision in precisions.items():
            if per_class:
                log.info("class%d: %g", label, precision)
        return float(np.mean(list(precisions.values()))) if precisions else 0.0


def detection_scores(net: Net) -> dict[str, DetectionScores]:
    """Scores to be gathered of a net: one for each output that a DetectionEvaluate layer makes, by name."""
    return {
        value.name: DetectionScores()
        for value in net.graph.outputs
        if value.producer.type == "DetectionEvaluate"
    }
