"""What may be wrong with a solver: the table of rules, and what each looks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from netc.schema.solver import ParsedSolver
from netc.tools.lint.data_rules import records
from netc.tools.lint.finding import Hit, Rule
from netc.tools.lint.wiring import NetView

POLICY_FIELDS: Final = {  # what each lr_policy reads
    "fixed": set[str](),
    "step": {"gamma", "stepsize"},
    "exp": {"gamma"},
    "inv": {"gamma", "power"},
    "multistep": {"gamma", "stepvalue"},
    "poly": {"power"},
    "sigmoid": {"gamma", "stepsize"},
}
ADAPTIVE_TYPES: Final = ("Adam", "RMSProp", "AdaGrad")
HIGHEST_RATES: Final = {"Adam": 0.01, "SGD": 1.0, "Nesterov": 1.0}
RARELY: Final = 1000  # iterations without a snapshot that are worth a word


@dataclass(frozen=True)
class SolverView:
    """A solver, the net that it trains (None where that cannot be read) and those that it tests."""

    solver: ParsedSolver
    train: NetView | None
    tests: tuple[NetView, ...] = field(default=())

    @property
    def message(self) -> Any:
        return self.solver.message

    @property
    def given(self) -> set[str]:
        return {field.name for field, _ in self.message.ListFields()}

    def hit(self, what: str, remedy: str, *path: str | int) -> Hit:
        return Hit(what, self.solver.positions.at(*path), remedy)


def steps_behind_the_end(view: SolverView) -> Iterator[Hit]:
    solver, end = view.message, view.message.max_iter
    if end and solver.lr_policy == "step" and solver.stepsize >= end:
        yield view.hit(
            f"the rate never falls: stepsize {solver.stepsize} is not below max_iter {end}",
            f"set stepsize: {max(1, end // 3)}, say",
            "stepsize",
        )
    for index, step in enumerate(solver.stepvalue):
        if end and solver.lr_policy == "multistep" and step >= end:
            yield view.hit(
                f"stepvalue {step} is never reached: max_iter is {end}",
                "lower it, or raise max_iter",
                "stepvalue",
                index,
            )


def unused_policy_fields(view: SolverView) -> Iterator[Hit]:
    policy = view.message.lr_policy
    used = POLICY_FIELDS.get(policy)
    if used is None:
        return
    for name in sorted(set.union(*POLICY_FIELDS.values()) - used):
        if name in view.given:
            fitting = [other for other, fields in POLICY_FIELDS.items() if name in fields]
            yield view.hit(
                f'lr_policy: "{policy}" does not read {name}',
                f"remove it, or choose another policy ({', '.join(fitting)})",
                name,
            )


def no_iterations(view: SolverView) -> Iterator[Hit]:
    if not view.message.max_iter:
        yield view.hit(
            "there is no max_iter: the run ends before it begins", "add max_iter: 10000", "max_iter"
        )


def high_rates(view: SolverView) -> Iterator[Hit]:
    kind, rate = view.message.type, view.message.base_lr
    highest = HIGHEST_RATES.get(kind)
    if highest is not None and rate > highest:
        yield view.hit(f"base_lr {rate:g} is high for {kind}", f"try {highest / 10:g}", "base_lr")


def momentum_left_out(view: SolverView) -> Iterator[Hit]:
    kind = view.message.type
    if kind in ("SGD", "Nesterov") and not view.message.momentum:
        yield view.hit(
            f"{kind} without momentum",
            "add momentum: 0.9",
            "momentum" if "momentum" in view.given else "type",
        )


def rare_snapshots(view: SolverView) -> Iterator[Hit]:
    every, end = view.message.snapshot, view.message.max_iter
    if not every and end > RARELY:
        yield view.hit(
            f"no snapshot before the end, {end} iterations away",
            f"add snapshot: {max(1, end // 10)}",
            "snapshot",
        )
    elif every > end > 0:
        yield view.hit(f"snapshot {every} is never reached: max_iter is {end}", "lower it", "snapshot")


def missing_snapshot_folder(view: SolverView) -> Iterator[Hit]:
    folder = Path(view.message.snapshot_prefix).parent
    if not folder.is_dir():
        yield view.hit(
            f"there is no folder {folder} for the snapshots", f"mkdir -p {folder}", "snapshot_prefix"
        )


def tests_that_never_run(view: SolverView) -> Iterator[Hit]:
    solver = view.message
    if not len(solver.test_iter):
        yield view.hit(
            "the net is never tested", "add test_iter: 100 and test_interval: 500", "test_interval"
        )
    elif solver.max_iter and solver.test_interval > solver.max_iter:
        yield view.hit(
            f"test_interval {solver.test_interval} lies beyond max_iter {solver.max_iter}",
            "lower it",
            "test_interval",
        )


def uneven_tests(view: SolverView) -> Iterator[Hit]:
    for index, (net, iterations) in enumerate(zip(view.tests, view.message.test_iter, strict=False)):
        batch, total = _batch_and_records(net)
        if not batch or total is None or batch * iterations == total:
            continue
        tested = batch * iterations
        what = (
            f"a test sees {tested:,} of {total:,} records"
            if tested < total
            else f"a test sees {tested:,} records where there are {total:,}: some count twice"
        )
        whole = -(-total // batch)
        even = "" if total % batch == 0 else f" (a batch_size that divides {total:,} makes it come out even)"
        yield view.hit(
            f"{what} (test_iter {iterations} x batch_size {batch})",
            f"set test_iter: {whole}{even}",
            "test_iter",
            index,
        )


def less_than_an_epoch(view: SolverView) -> Iterator[Hit]:
    if view.train is None or not view.message.max_iter:
        return
    batch, total = _batch_and_records(view.train)
    seen = batch * view.message.max_iter * max(1, view.message.iter_size)
    if batch and total is not None and seen < total:
        yield view.hit(
            f"the run ends before every record was seen: {seen:,} of {total:,}",
            f"set max_iter: {-(-total // batch)} or more",
            "max_iter",
        )


def _batch_and_records(net: NetView) -> tuple[int, int | None]:
    """Of the first layer of a net that brings data."""
    for layer in net.layers:
        if layer.brings_data:
            return int(getattr(layer.options, "batch_size", 0) or 0), records(layer.spec)
    return 0, None


SOLVER_RULES: Final[tuple[Rule[SolverView], ...]] = (
    Rule("step-beyond-end", "warning", "steps of the rate that max_iter comes before", steps_behind_the_end),
    Rule("unused-policy-field", "warning", "fields that the lr_policy does not read", unused_policy_fields),
    Rule("no-iterations", "warning", "no max_iter", no_iterations),
    Rule("high-rate", "warning", "a base_lr beyond what the solver's type usually bears", high_rates),
    Rule("no-momentum", "note", "SGD without momentum", momentum_left_out),
    Rule("rare-snapshots", "warning", "no snapshot for a long time", rare_snapshots),
    Rule(
        "no-snapshot-folder",
        "warning",
        "a snapshot_prefix in a folder that is not there",
        missing_snapshot_folder,
    ),
    Rule("never-tested", "note", "no tests, or none before the end", tests_that_never_run),
    Rule("uneven-test", "warning", "test_iter x batch_size is not the number of test records", uneven_tests),
    Rule("less-than-an-epoch", "warning", "a run too short to see every record", less_than_an_epoch),
)
