"""Whether two contenders compute the same: losses before and after updates, and the classes' scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from bench.contest import Contest
from bench.job import Job
from bench.nets import net_named
from bench.prepare import prepare
from netc.errors import NetcError

TOLERANCE: Final = 1e-3
CHECKED_STEPS: Final = 2  # the loss of the second one comes of an update


CHECK_BATCH: Final = 4


def check(jobs: Sequence[Job], demand: bool = True) -> dict[str, float]:
    """Runs a step or two of the same net without dropout on a small batch; how far the peers' results are
    from netc's.

    demand: raise NetcError where they do not compute the same, since their times would say nothing then.
    """
    small = [
        replace(job, batch=min(CHECK_BATCH, job.batch), dropout=False, rate=net_named(job.net).check_rate)
        for job in jobs
        if job.contender != "compile"  # the same module as channels_last; compiling it twice takes long
    ]
    folder = Path(jobs[0].folder)
    prepare(small[0])
    differences: dict[str, float] = {}
    with Contest(small, "wall", print) as contest:
        for _ in range(CHECKED_STEPS if jobs[0].task == "train" else 1):
            contest.ask_each(do="run", steps=1)
            for name, difference in compare(results_of(contest, folder)).items():
                differences[name] = max(difference, differences.get(name, 0.0))
    for name, difference in differences.items():
        if demand and not difference <= TOLERANCE:
            raise NetcError(
                f"netc and {name} do not compute the same",
                expected=f"at most {TOLERANCE:g}",
                found=difference,
            )
    return differences


def compare(results: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, float]:
    """How far each peer's results are from netc's; nothing where netc is not among them."""
    ours = results.get("netc")
    if ours is None:
        return {}
    return {name: disagreement(ours, theirs) for name, theirs in results.items() if name != "netc"}


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
    if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return float("inf")
    return float(np.abs(ours - theirs).max() / max(np.abs(ours).max(), 1e-12))


def _scores(probabilities: np.ndarray) -> np.ndarray:
    rows = np.log(np.maximum(probabilities.reshape(len(probabilities), -1), 1e-30).astype(np.float64))
    return np.asarray(rows - rows.mean(axis=1, keepdims=True))
