"""What is likely wrong with a net or a solver: tables of rules, each finding with its place and a remedy."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any, Final

from netc.errors import NetcError, NetcErrors
from netc.proto import netc_pb2 as pb
from netc.schema.net import ParsedNet, read_net
from netc.schema.reading import read_file_text
from netc.schema.solver import ParsedSolver, read_solver
from netc.tools.lint.finding import SEVERITIES, Finding, Rule, in_file_order
from netc.tools.lint.net_rules import NET_RULES
from netc.tools.lint.pair_rules import PAIR_RULES, Pair
from netc.tools.lint.solver_rules import SOLVER_RULES, SolverView
from netc.tools.lint.wiring import NetView, view_net
from netc.tools.sketch import Request

__all__ = ["ALL_RULES", "SEVERITIES", "Finding", "lint_file", "lint_net", "lint_solver"]

ALL_RULES: Final[tuple[Rule[Any], ...]] = (*NET_RULES, *PAIR_RULES, *SOLVER_RULES)
SOLVER_FIELDS: Final = ("base_lr", "lr_policy", "max_iter", "test_iter", "train_net", "net", "solver_mode")


def lint_file(path: str, request: Request) -> list[Finding]:
    """The findings in a prototxt, be it a net or a solver, in file order. Errors in its text are findings."""
    try:
        if _is_solver(path):
            return lint_solver(read_solver(path), request)
        return lint_net(read_net(path), request)
    except NetcError as error:
        if not os.path.isfile(path):
            raise
        return in_file_order(list(_unreadable(error)))


def lint_net(net: ParsedNet, request: Request) -> list[Finding]:
    """The findings in a net, in both of its phases (a net without data layers is looked at in TEST only)."""
    train, test = (view_net(net, dataclasses.replace(request, phase=phase)) for phase in (pb.TRAIN, pb.TEST))
    return in_file_order(list(_net_findings(train, (test,))))


def lint_solver(solver: ParsedSolver, request: Request) -> list[Finding]:
    """The findings in a solver and in its nets; a net that cannot be read is a finding."""
    findings: list[Finding] = []
    train = None
    tests: list[NetView] = []
    try:
        train, tests = _solver_nets(solver, request)
        findings += _net_findings(train, tuple(tests))
    except NetcError as error:
        findings += _unreadable(error)
    view = SolverView(solver, train, tuple(tests))
    findings += [finding for rule in SOLVER_RULES for finding in rule.findings(view)]
    return in_file_order(findings)


def _net_findings(train: NetView, tests: tuple[NetView, ...]) -> Iterator[Finding]:
    views = [train, *tests] if any(layer.brings_data or layer.is_loss for layer in train.layers) else tests
    for view in views:
        for rule in NET_RULES:
            yield from rule.findings(view)
    for test in tests:
        for pair_rule in PAIR_RULES:
            yield from pair_rule.findings(Pair(train, test))


def _solver_nets(solver: ParsedSolver, request: Request) -> tuple[NetView, list[NetView]]:
    """The train net in its state, and a test net in its for each test_iter (or the shared one for none)."""
    message = solver.message
    shared = _net(solver, "net", "net_param") or _net(solver, "train_net", "train_net_param")
    assert shared is not None, "a solver that was read has a train net"
    train = view_net(shared, _request(request, pb.TRAIN, message.train_state))
    own = [
        ParsedNet(net, solver.positions.below("test_net_param", i))
        for i, net in enumerate(message.test_net_param)
    ]
    own += [read_net(path) for path in message.test_net]
    own += [shared] * max(0, len(message.test_iter) - len(own))
    states = list(message.test_state) or [pb.NetState()] * len(own)
    tests = [
        view_net(net, _request(request, pb.TEST, state)) for net, state in zip(own, states, strict=False)
    ]
    return train, tests


def _net(solver: ParsedSolver, path: str, inline: str) -> ParsedNet | None:
    if solver.message.HasField(path):
        return read_net(getattr(solver.message, path))
    if solver.message.HasField(inline):
        return ParsedNet(getattr(solver.message, inline), solver.positions.below(inline))
    return None


def _request(request: Request, phase: int, state: Any) -> Request:
    level = state.level if state.HasField("level") else request.level
    return dataclasses.replace(request, phase=phase, level=level, stages=[*request.stages, *state.stage])


def _is_solver(path: str) -> bool:
    """Whether a prototxt has a field that only solvers have, outside all messages."""
    depth = 0
    for line in read_file_text(path).splitlines():
        code = line.split("#")[0]
        if depth == 0 and code.split(":")[0].strip() in SOLVER_FIELDS:
            return True
        depth += code.count("{") - code.count("}")
    return False


def _unreadable(error: NetcError) -> Iterator[Finding]:
    for each in error.errors if isinstance(error, NetcErrors) else [error]:
        yield Finding("unreadable", "error", each.what, each.at, each.layer or "", each.remedy or "")
