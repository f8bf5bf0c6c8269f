"""The solver: update rules, learning-rate policies, the training loop, snapshots and hooks."""

from netc.solver.hooks import Hook
from netc.solver.snapshot import latest
from netc.solver.solver import Solver
from netc.solver.types import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    get_solver,
)

__all__ = [
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Hook",
    "NesterovSolver",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "get_solver",
    "latest",
]
