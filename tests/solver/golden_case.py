"""Solver runs that the real Caffe made, and the judgement of whether netc ends where Caffe ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = sorted(path.stem for path in (GOLDEN / "solvers").glob("*.npz"))
CASES_WITH_SNAPSHOTS = [
    name for name in CASES if (GOLDEN / "solvers" / f"{name}_iter_12.solverstate").exists()
]


def load(name: str) -> dict[str, Any]:
    """All arrays of a case."""
    with np.load(GOLDEN / "solvers" / f"{name}.npz") as arrays:
        return dict(arrays)


def assert_close(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    """The project's tolerance for float32 results: 1e-5 of the largest value, plus 1e-7."""
    expected = np.asarray(expected, np.float64)
    found = np.asarray(found, np.float64)
    assert found.shape == expected.shape, what
    limit = 1e-5 * np.abs(expected).max(initial=0) + 1e-7
    worst = np.abs(found - expected).max(initial=0)
    assert worst <= limit, f"{what}: off by {worst:.3g}, allowed {limit:.3g}"


def parameters(case: dict[str, Any], moment: str) -> dict[tuple[str, int], np.ndarray]:
    """The parameters of a case at a moment ("init", "after1", "final", ...), by layer and index."""
    found = {}
    for key, array in case.items():
        when, _, rest = key.partition("/")
        if when == moment:
            layer, index = rest.rsplit("/", 1)
            found[layer, int(index)] = array
    return found
