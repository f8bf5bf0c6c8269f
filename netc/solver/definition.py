"""From what a user gives to the checked definition that a solver keeps, and the update rule that it names."""

from __future__ import annotations

import difflib
import logging
import os
import secrets

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.schema.positions import Positions
from netc.schema.solver import check_solver, read_solver
from netc.solver.nets import replace_model
from netc.solver.rules import RULES, Rule

log = logging.getLogger(__name__)


def own_definition(
    definition: str | os.PathLike[str] | pb.SolverParameter, model: str | None, type_: str = ""
) -> pb.SolverParameter:
    """The solver's own copy of its definition, read from a file where a path is given; checked.

    model: a net that takes the place of those in the definition; type_: the solver type that trains, whatever
    the definition names. Raises NetcError, or NetcErrors.
    """
    if not isinstance(definition, pb.SolverParameter):
        parsed = read_solver(os.fspath(definition), net=model)
        rule_class(type_ or parsed.message.type)(parsed.message, parsed.positions)
        return parsed.message
    own = pb.SolverParameter()
    own.CopyFrom(definition)
    if model is not None:
        replace_model(own, model)
    check_solver(own, Positions.unknown("the solver definition"))
    return own


def rule_class(name: str) -> type[Rule]:
    """The update rule of a solver type. Raises NetcError, with the nearest type, where there is none."""
    if name not in RULES:
        near = difflib.get_close_matches(name, RULES, n=1, cutoff=0.4)
        raise NetcError(
            f"unknown solver type {name!r}",
            expected=", ".join(RULES),
            remedy=f'did you mean type: "{near[0]}"?' if near else None,
        )
    return RULES[name]


def seed_of(definition: pb.SolverParameter) -> int:
    """A definition's random_seed; where it has none, one from the operating system, which the log tells."""
    if definition.random_seed >= 0:
        return int(definition.random_seed)
    seed = secrets.randbits(31)
    log.info("random_seed of this run: %d (random_seed: %d in the solver repeats it)", seed, seed)
    return seed
