"""The solver: update rules, learning-rate policies, the training loop, snapshots and hooks."""

from netc.solver.hooks import Hook
from netc.solver.snapshot import latest
from netc.solver.solver import Solver

__all__ = ["Hook", "Solver", "latest"]
