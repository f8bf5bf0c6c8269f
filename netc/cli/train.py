"""`netc train`: trains a net, from scratch, from weights or from a snapshot."""

from __future__ import annotations

import logging
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

from netc.cli.command import Command
from netc.cli.flags import Flag, Flags, UsageError
from netc.cli.net_flags import MEMORY_FLAG, NET_FLAGS, choose_device, limit_threads, require
from netc.cli.progress import wants_bar
from netc.cli.signals import EFFECTS, signal_effects

if TYPE_CHECKING:
    from netc.proto import netc_pb2 as pb
    from netc.solver.hooks import Hook

log = logging.getLogger(__name__)

FLAGS = (
    Flag("solver", "string", "", "The solver's definition, a prototxt.", metavar="FILE"),
    Flag(
        "model", "string", "", "The net to train, in place of the one that the solver names.", metavar="FILE"
    ),
    Flag("weights", "list", [], "Weights to start from; layers are matched by name.", metavar="FILE,..."),
    Flag(
        "snapshot",
        "string",
        "",
        "The .solverstate to go on from; latest: this solver's newest whole one, or a start from scratch.",
        metavar="FILE|latest",
    ),
    Flag("iterations", "int", 0, "Stop after this many iterations, with a snapshot; 0 goes on to max_iter."),
    Flag("sigint_effect", "string", "stop", "What SIGINT (Ctrl-C) does.", choices=EFFECTS),
    Flag("sighup_effect", "string", "snapshot", "What SIGHUP (the terminal is gone) does.", choices=EFFECTS),
    Flag("seed", "int", None, "The seed of all randomness, in place of the solver's random_seed."),
    *NET_FLAGS,
    MEMORY_FLAG,
)
EXAMPLE = "netc train -solver solver.prototxt"


def run(flags: Flags) -> int:
    """Trains until max_iter, or until a signal stops the run after a snapshot."""
    require(flags, "solver", EXAMPLE)
    _check(flags)
    limit_threads(flags)
    # A device that is named is opened, or refused, before anything is read.
    named = choose_device(flags, "caffe.cpp:197") if flags.gpu.strip() else None
    from netc.solver import Solver, latest

    definition = _definition(flags)
    backend = named or choose_device(flags, "caffe.cpp:197", _gpu_of(definition))
    with ExitStack() as stack:
        hooks = _hooks(flags, stack)
        solver = Solver(
            definition,
            model=flags.model or None,
            weights=flags.weights or None,
            hooks=hooks,
            backend=backend,
        )
        stack.callback(solver.close)
        snapshot = latest(solver.param.snapshot_prefix) if flags.snapshot == "latest" else flags.snapshot
        if snapshot:
            log.info("Resuming from %s", snapshot, extra={"source": "caffe.cpp:235"})
            solver.restore(snapshot)
        elif flags.snapshot:
            log.info("No snapshot of %s yet: starting from scratch", solver.param.snapshot_prefix)
        log.info("Starting Optimization", extra={"source": "caffe.cpp:239"})
        with signal_effects(solver, _effects(flags)):
            solver.solve()
        log.info("Optimization Done.", extra={"source": "caffe.cpp:250"})
    return 0


def _check(flags: Flags) -> None:
    if flags.weights and flags.snapshot:
        raise UsageError(
            "-weights and -snapshot cannot both be given",
            remedy="-snapshot goes on with a run, -weights starts one from trained weights: give one of them",
        )
    if flags.iterations < 0:
        raise UsageError("flag -iterations is negative", expected="0 or more", found=flags.iterations)


def _definition(flags: Flags) -> pb.SolverParameter:
    """The solver's message, with what the flags change in it."""
    from netc.solver.definition import own_definition

    definition = own_definition(flags.solver, flags.model or None)
    state = definition.train_state
    if state.level != flags.level and "level" not in flags.given:
        log.warning(
            "As in Caffe, -level (%d) replaces the solver's train_state level %d", flags.level, state.level
        )
    state.level = flags.level
    state.stage.extend(flags.stage)
    if flags.seed is not None:
        definition.random_seed = flags.seed
    return definition


def _gpu_of(definition: pb.SolverParameter) -> str:
    """The GPU that a solver asks for by its solver_mode, where there is one; the log tells where not."""
    from netc.backends.open import gpu_is_there

    wanted = definition.solver_mode == type(definition).GPU
    return str(definition.device_id) if wanted and gpu_is_there() else ""


def _hooks(flags: Flags, stack: ExitStack) -> list[Hook]:
    """What hangs on the solver for these flags; what must be closed at the end is put on the stack."""
    from netc.cli.hooks import EventHook, StopAfter
    from netc.cli.log import log_file

    hooks: list[Hook] = []
    written = log_file()
    if written is not None:
        hooks.append(stack.enter_context(EventHook(written.with_name(written.name + ".jsonl"))))
    if flags.iterations:
        hooks.append(StopAfter(flags.iterations))
    if wants_bar(flags.quiet):
        from netc.cli.training_bar import ProgressHook, training_bar  # only now: it loads rich

        hooks.append(ProgressHook(stack.enter_context(training_bar())))
    return hooks


def _effects(flags: Flags) -> dict[signal.Signals, str]:
    """SIGTERM is how schedulers announce the end: it takes a snapshot and stops."""
    effects = {"SIGINT": flags.sigint_effect, "SIGHUP": flags.sighup_effect, "SIGTERM": "stop"}
    return {signal.Signals[name]: effect for name, effect in effects.items() if hasattr(signal, name)}


COMMAND = Command(
    "train",
    "train or finetune a net",
    run,
    FLAGS,
    notes="""
        Trains as the solver says, logging as Caffe does. On a terminal, a bar shows speed and loss.

        SIGINT (Ctrl-C) finishes the iteration, takes a snapshot and stops; a second one stops at once, and
        what came after the last snapshot is lost. SIGHUP takes a snapshot and goes on. SIGTERM, with which
        schedulers announce the end, does what SIGINT does by default.
    """,
    examples=(
        EXAMPLE,
        "netc train -solver solver.prototxt -weights bvlc_reference_caffenet.caffemodel",
        "netc train -solver solver.prototxt -snapshot latest -log_dir logs",
    ),
)
