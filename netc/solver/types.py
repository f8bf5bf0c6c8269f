"""The solver types as classes, and the solver that a definition asks for."""

from __future__ import annotations

import os
from typing import Any

from netc.proto import netc_pb2 as pb
from netc.solver.solver import Solver


class SGDSolver(Solver):
    """Trains by stochastic gradient descent with momentum, whatever type the definition names."""

    type = "SGD"


class NesterovSolver(Solver):
    """Trains by Nesterov's accelerated gradient."""

    type = "Nesterov"


class AdaGradSolver(Solver):
    """Trains by AdaGrad."""

    type = "AdaGrad"


class RMSPropSolver(Solver):
    """Trains by RMSProp."""

    type = "RMSProp"


class AdaDeltaSolver(Solver):
    """Trains by AdaDelta."""

    type = "AdaDelta"


class AdamSolver(Solver):
    """Trains by Adam."""

    type = "Adam"


SOLVER_TYPES: dict[str, type[Solver]] = {
    solver.type: solver
    for solver in (SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver)
}


def get_solver(definition: str | os.PathLike[str] | pb.SolverParameter, **options: Any) -> Solver:
    """The solver of the type that a definition names. options: those of `Solver`. Raises NetcError."""
    solver = Solver(definition, **options)
    # The class follows the definition's type, which Solver has checked.
    solver.__class__ = SOLVER_TYPES[solver.param.type]
    return solver
