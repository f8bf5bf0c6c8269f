"""Reads solver definitions, brings them up to the current schema and checks that they make sense."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from netc.errors import NetcError, raise_errors
from netc.proto import netc_pb2 as pb
from netc.schema.positions import Positions
from netc.schema.suggestions import did_you_mean
from netc.schema.text import parse_text, read_text
from netc.schema.upgrade import SOLVER_TYPES, complete_snapshot_prefix, upgrade_solver

log = logging.getLogger(__name__)

TRAIN_NETS = ("net", "net_param", "train_net", "train_net_param")
# What each lr_policy cannot do without. Caffe takes the missing ones as 0, and learns nothing.
POLICY_NEEDS = {
    "fixed": (),
    "step": ("gamma", "stepsize"),
    "exp": ("gamma",),
    "inv": ("gamma", "power"),
    "multistep": ("gamma", "stepvalue"),
    "poly": ("power", "max_iter"),
    "sigmoid": ("gamma", "stepsize"),
}
EXAMPLES = {"gamma": "0.1", "stepsize": "10000", "stepvalue": "10000", "power": "0.75", "max_iter": "10000"}
REGULARIZATIONS = ("L2", "L1")
EVALUATION = {
    "eval_type": ("classification", "detection"),
    "ap_version": ("11point", "MaxIntegral", "Integral"),
}
# The numbers that make sense, for each field that is given.
RANGES: tuple[tuple[tuple[str, ...], str, Callable[[float], bool]], ...] = (
    (
        (
            "base_lr",
            "weight_decay",
            "delta",
            "gamma",
            "max_iter",
            "display",
            "snapshot",
            "test_interval",
            "test_iter",
            "device_id",
        ),
        "0 or more",
        lambda value: value >= 0,
    ),
    (
        ("iter_size", "average_loss", "stepsize", "stepvalue"),
        "1 or more",
        lambda value: value >= 1,
    ),
    (("momentum", "momentum2", "rms_decay"), "0 or more, and below 1", lambda value: 0 <= value < 1),
    (("clip_gradients",), "above 0, or -1 for none", lambda value: value != 0),
)


@dataclass(frozen=True)
class ParsedSolver:
    """A current SolverParameter and the places of its fields in the file."""

    message: pb.SolverParameter
    positions: Positions


def read_solver(path: str | os.PathLike[str], net: str | None = None) -> ParsedSolver:
    """The solver in a prototxt file, checked. net: a net file that takes the place of those in the solver.

    Raises NetcError, or NetcErrors with all errors of the file.
    """
    return _finish(*_parts(read_text(path, pb.SolverParameter)), net)


def parse_solver(text: str | bytes, file: str = "<text>", net: str | None = None) -> ParsedSolver:
    """The solver that `text` spells out, checked. Raises as `read_solver`."""
    return _finish(*_parts(parse_text(text, pb.SolverParameter, file)), net)


def check_solver(solver: Any, positions: Positions) -> None:
    """Raises NetcError, or NetcErrors, for what in a SolverParameter cannot be meant."""
    checks = (
        _check_type,
        _check_nets,
        _check_tests,
        _check_policy,
        _check_regularization,
        _check_ranges,
        _check_evaluation,
    )
    errors = [error for check in checks for error in check(solver, positions)]
    raise_errors(sorted(errors, key=lambda error: (error.at.line, error.at.column) if error.at else (0, 0)))


def _parts(parsed: Any) -> tuple[Any, Positions]:
    return parsed.message, parsed.positions


def _finish(solver: Any, positions: Positions, net: str | None) -> ParsedSolver:
    if net is not None:
        for name in (*TRAIN_NETS, "test_net", "test_net_param"):
            solver.ClearField(name)
        solver.net = net
    upgrade_solver(solver, positions)
    complete_snapshot_prefix(solver, positions)
    check_solver(solver, positions)
    return ParsedSolver(solver, positions)


def _check_type(solver: Any, positions: Positions) -> Iterator[NetcError]:
    kind = solver.type
    if kind not in SOLVER_TYPES.values():
        yield NetcError(
            f"unknown solver type {kind!r}",
            at=positions.at("type"),
            expected=", ".join(SOLVER_TYPES.values()),
            remedy=did_you_mean(kind, SOLVER_TYPES.values()),
        )


def _check_nets(solver: Any, positions: Positions) -> Iterator[NetcError]:
    given = [name for name in TRAIN_NETS if solver.HasField(name)]
    if len(given) != 1:
        yield NetcError(
            "the solver names no net to train"
            if not given
            else "the solver names more than one net to train",
            at=positions.at(given[1]) if given else positions.at(),
            expected=f"one of {', '.join(TRAIN_NETS)}",
            found=", ".join(given) or "none",
            remedy='add net: "train_val.prototxt"' if not given else "keep one of them",
        )


def _check_tests(solver: Any, positions: Positions) -> Iterator[NetcError]:
    own = len(solver.test_net) + len(solver.test_net_param)
    shared = solver.HasField("net") or solver.HasField("net_param")
    tests = len(solver.test_iter)
    if tests < own or (tests > own and not shared):
        yield NetcError(
            "each test net needs a test_iter",
            at=positions.at("test_iter")
            if tests
            else positions.at("test_net" if solver.test_net else "test_net_param"),
            expected=f"{own} test_iter" + (" or more" if shared else ""),
            found=tests,
            remedy="add a test_iter for each test net"
            if tests < own
            else "remove a test_iter, or add a test_net",
        )
    if len(solver.test_state) not in (0, tests):
        yield NetcError(
            "each test net needs a test_state, or none does",
            at=positions.at("test_state"),
            expected=f"0 or {tests} test_state",
            found=len(solver.test_state),
        )
    if tests and solver.test_interval == 0:
        yield NetcError(
            "there is a test_iter but no test_interval",
            at=positions.at("test_iter"),
            remedy="add test_interval: 500, or remove test_iter",
        )


def _check_policy(solver: Any, positions: Positions) -> Iterator[NetcError]:
    if not solver.HasField("base_lr"):
        yield NetcError("the solver has no base_lr", at=positions.at(), remedy="add base_lr: 0.01")
    policy = solver.lr_policy
    if policy not in POLICY_NEEDS:
        yield NetcError(
            f'unknown lr_policy "{policy}"' if policy else "the solver has no lr_policy",
            at=positions.at("lr_policy"),
            expected=", ".join(POLICY_NEEDS),
            remedy=did_you_mean(policy, POLICY_NEEDS) if policy else 'add lr_policy: "fixed"',
        )
        return
    given = {field.name for field, _ in solver.ListFields()}
    for name in POLICY_NEEDS[policy]:
        if name not in given:
            yield NetcError(
                f'lr_policy "{policy}" needs {name}',
                at=positions.at("lr_policy"),
                remedy=f"add {name}: {EXAMPLES[name]}",
            )
    if policy == "poly" and "max_iter" in given and solver.max_iter == 0:
        yield NetcError('lr_policy "poly" needs a max_iter above 0', at=positions.at("max_iter"), found=0)
    if policy == "multistep" and list(solver.stepvalue) != sorted(solver.stepvalue):
        log.warning(
            "%s: the stepvalue do not grow; each waits for the one before it", positions.at("stepvalue")
        )


def _check_regularization(solver: Any, positions: Positions) -> Iterator[NetcError]:
    kind = solver.regularization_type
    if kind not in REGULARIZATIONS:
        yield NetcError(
            f'unknown regularization_type "{kind}"',
            at=positions.at("regularization_type"),
            expected=" or ".join(REGULARIZATIONS),
            remedy=did_you_mean(kind, REGULARIZATIONS),
        )


def _check_ranges(solver: Any, positions: Positions) -> Iterator[NetcError]:
    given = {field.name: value for field, value in solver.ListFields()}
    for names, allowed, is_allowed in RANGES:
        for name in names:
            value = given.get(name, ())
            for index, number in enumerate((value,) if isinstance(value, (int, float)) else value):
                if not (math.isfinite(number) and is_allowed(number)):
                    yield NetcError(
                        f"{name}: {number:g} makes no sense",
                        at=positions.at(name, index),
                        expected=allowed,
                    )


def _check_evaluation(solver: Any, positions: Positions) -> Iterator[NetcError]:
    """SSD's eval_type and ap_version. The outputs of DetectionEvaluate layers are scored by mean average
    precision whatever eval_type says."""
    for field, known in EVALUATION.items():
        if (found := getattr(solver, field)) not in known:
            yield NetcError(
                f"unknown {field}", at=positions.at(field), expected=" or ".join(known), found=found
            )
