"""What every test runs under: one thread for each worker, no display, and the folder of golden numbers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before NumPy is imported: each worker would otherwise take all the cores.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

os.environ.setdefault("MPLBACKEND", "agg")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of numbers that Caffe computed."""
    return Path(__file__).parent / "golden"
