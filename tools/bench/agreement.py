"""Whether two contenders compute the same: losses before and after updates, and the classes' scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from bench.contest import Contest

TOLERANCE: Final = 1e-3
CHECKED_STEPS: Final = 3


def results_of(contest: Contest, folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """What each contender's last step came to."""
    results = {}
    for name in contest.ask_each(do="results", folder=str(folder)):
        with np.load(folder / f"results-{name}.npz") as arrays:
            results[name] = dict(arrays)
    return results


def disagreement(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    """The largest difference between two contenders' results, as a share of the largest value.

    Probabilities are compared by their logarithms less the mean of an image's: classes that are all about
    equally likely, as in a net that has learned nothing, still have scores that differ.
    """
    return max(_difference(ours[name], theirs[name]) for name in ours)


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.size > 1:
        ours, theirs = _scores(ours), _scores(theirs)
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return float("inf")
    return float(np.abs(ours - theirs).max() / max(np.abs(ours).max(), 1e-12))


def _scores(probabilities: np.ndarray) -> np.ndarray:
    rows = np.log(np.maximum(probabilities.reshape(len(probabilities), -1), 1e-30).astype(np.float64))
    return np.asarray(rows - rows.mean(axis=1, keepdims=True))
