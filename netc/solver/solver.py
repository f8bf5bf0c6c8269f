"""The solver: trains a net as a solver definition says, tests it, and takes and resumes from snapshots."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence

from netc.backends.backend import Backend
from netc.backends.cpu import CpuBackend
from netc.backends.loss_scale import LossScale
from netc.proto import netc_pb2 as pb
from netc.runtime import Net, OutputValue
from netc.schema.state import SolverState
from netc.schema.text import format_text
from netc.solver.definition import own_definition, rule_class, seed_of
from netc.solver.hooks import Hook
from netc.solver.iteration import Iteration
from netc.solver.losses import Losses
from netc.solver.nets import NetSpec, test_net_specs, train_net_spec
from netc.solver.policy import Schedule
from netc.solver.report import Progress, say, say_test_outputs, say_train_outputs, say_whole_waiting
from netc.solver.scores import mean_scores
from netc.solver.side_file import FileMark, NetState, SideState, restore_nets
from netc.solver.snapshot import Snapshot, SnapshotNames, check_writable, read_snapshot, write_snapshot
from netc.solver.snapshot_size import check_fits_snapshot, takes_snapshots
from netc.solver.threads import thread_count
from netc.solver.update import Updater
from netc.solver.waiting import WaitingSpan

log = logging.getLogger(__name__)


class Solver:
    """Trains one net.

    definition: a solver prototxt's path or its message. model: a net to use in place of the solver's.
    weights: weights files to start from (after the definition's own `weights`). hooks: see
    `netc.solver.hooks`. keep: "outputs" keeps only what training needs, maybe not all of the gradients; "all"
    leaves every blob of the nets readable between steps. backend: where and how it computes, the CPU by
    default.

    param: the definition; net, test_nets: the nets; iter: the number of updates made; lr: the rate of the
    last update; loss: the last iteration's loss (from before its update); smoothed_loss: its mean over
    `average_loss` iterations; stopped: whether the last `solve` was ended by a request. A hook that asks for
    a loss makes the iterations wait for it, where they run on a device. Raises NetcError.
    """

    def __init__(
        self,
        definition: str | os.PathLike[str] | pb.SolverParameter,
        *,
        model: str | None = None,
        weights: str | Sequence[str] | None = None,
        hooks: Iterable[Hook] = (),
        keep: str = "outputs",
        backend: Backend | None = None,
    ) -> None:
        self.param = own_definition(definition, model)
        self.hooks = list(hooks)
        self.keep = keep
        self.backend = backend or CpuBackend()
        self.iter = 0
        self.lr = 0.0
        self.stopped = False
        self._stop_requested = False
        self._snapshot_requested = False
        self._snapshot_iter: int | None = None  # the iteration that a snapshot on disk already holds
        self._losses = Losses(self.param.average_loss, self.param.base_lr)
        self._weights = [*self.param.weights, *([weights] if isinstance(weights, str) else weights or ())]
        say(
            "solver.cpp:45", "Initializing solver from parameters: \n%s", format_text(self.param).rstrip("\n")
        )
        self._check_device()
        self._schedule = Schedule(self.param)
        self._rule = rule_class(self.param.type)(self.param)
        if takes_snapshots(self.param):
            check_writable(self.param.snapshot_prefix)
        self._make_nets(seed_of(self.param))
        say("solver.cpp:57", "Solver scaffolding done.")

    def _check_device(self) -> None:
        if self.param.solver_mode == pb.SolverParameter.GPU and isinstance(self.backend, CpuBackend):
            log.warning("solver_mode is GPU, but there is no GPU to run on: training on the CPU")
        if self.backend.math in self.backend.scaled_maths and self.keep == "all":
            log.warning(
                "gradients below 6e-8 are lost in %s: where all blobs are kept, the loss is not scaled",
                self.backend.math,
            )

    def _make_nets(self, seed: int) -> None:
        """Builds the train net and the test nets; these share its parameters and its memory."""
        self.seed = seed
        spec = train_net_spec(self.param)
        say("solver.cpp:102", "Creating training net from %s", spec.origin)
        self.net = self._make_net(spec, seed)
        self.test_nets: list[Net] = []
        try:
            if takes_snapshots(self.param):
                check_fits_snapshot(self.param, self.net, self._rule.history_count)
            for index, spec in enumerate(test_net_specs(self.param)):
                say("solver.cpp:190", "Creating test net (#%d) specified by %s", index, spec.origin)
                self.test_nets.append(self._make_net(spec, seed + 1 + index, self.net))
            self._updater = Updater(
                self.param, self._rule, self.net.parameters, self.backend, loss_scale=self.net.loss_scale
            )
            self._iteration = Iteration(self.net, self._updater, self.param.iter_size)
        except BaseException:
            self.close()
            raise

    def _make_net(self, spec: NetSpec, seed: int, train_net: Net | None = None) -> Net:
        net = Net(
            spec.definition,
            spec.state.phase,
            level=spec.state.level,
            stages=list(spec.state.stage),
            share_with=train_net,
            keep=self.keep,
            backward=train_net is None,
            seed=seed,
            positions=spec.positions,
            arena=train_net.arena if train_net else None,
            backend=self.backend,
            fresh=self.keep == "outputs" and self.param.iter_size == 1,
            histories=self._rule.history_count if train_net is None else 0,
        )
        try:
            for path in (path for entry in self._weights for path in entry.split(",")):
                say("solver.cpp:72", "Finetuning from %s", path)
                if net.parameters.segments:  # a test net that shares all of them has nothing to load
                    net.load_weights(path)
        except BaseException:
            net.close()
            raise
        return net

    def close(self) -> None:
        """Closes the nets' data sources."""
        for net in self._nets:
            net.close()

    @property
    def _nets(self) -> tuple[Net, ...]:
        return self.net, *self.test_nets

    @property
    def loss(self) -> float:
        """The last iteration's loss, from before its update."""
        self.settle()
        return self._losses.last

    @property
    def smoothed_loss(self) -> float:
        """The mean loss over the last `average_loss` iterations of this run."""
        self.settle()
        return self._losses.smoothed

    def settle(self) -> None:
        """Returns when all iterations asked for are done, and what they came to is known.

        `step`, tests and snapshots do so themselves; a device may be iterations behind elsewhere. Raises
        NetcError where one of them has met with labels that are no classes.
        """
        for iteration, loss in self._iteration.settle():
            self._losses.take(iteration, loss)

    def request_stop(self) -> None:
        """Asks `solve` and `step` to finish the iteration and return; safe in a signal handler."""
        self._stop_requested = True

    def request_snapshot(self) -> None:
        """Asks for a snapshot after the iteration; safe in a signal handler."""
        self._snapshot_requested = True

    def solve(self) -> None:
        """Trains until `max_iter` or a request to stop; takes the last snapshot and tests once more."""
        say("solver.cpp:289", "Solving %s", self.net.name)
        say("solver.cpp:290", "Learning Rate Policy: %s", self.param.lr_policy)
        self._tell("on_start")
        try:
            if self.iter >= self.param.max_iter:
                log.warning(
                    "Nothing left to train: this is iteration %d of max_iter: %d",
                    self.iter,
                    self.param.max_iter,
                )
            whole = WaitingSpan(self._nets)
            self.step(self.param.max_iter - self.iter)
            say_whole_waiting(whole.seconds, whole.share)
            if self.param.snapshot_after_train and self._snapshot_iter != self.iter:
                self.snapshot()
            if self.stopped:
                say("solver.cpp:319", "Optimization stopped early.")
                return
            self._finish()
        finally:
            self._tell("on_end")

    def _finish(self) -> None:
        """The loss and the test that follow the last update."""
        self._losses.look_at_parameters(self.net, self.iter)
        if self._is_due(self.param.display):
            loss = self._losses.with_last(self.net.forward())
            say("solver.cpp:327", "Iteration %d, loss = %g", self.iter, loss)
        if self._is_due(self.param.test_interval):
            self.test_all()
        say("solver.cpp:332", "Optimization Done.")

    def step(self, iterations: int = 1) -> None:
        """Makes this many updates, with the tests, displays and snapshots that fall due on the way."""
        self.stopped = False
        self.settle()
        self._losses.begin()
        self._progress = Progress(self._nets, self.iter)
        stop = self.iter + iterations
        while self.iter < stop and not self.stopped:
            self._iterate()
        self.settle()

    def _iterate(self) -> None:
        waits = any(hook.waits_for_gradients for hook in self.hooks)
        in_one = self._iteration.fits_in_one and not waits
        if not in_one:
            self.net.clear_param_diffs()
        if self._is_due(self.param.test_interval) and (self.iter > 0 or self.param.test_initialization):
            self.test_all()
            if self.stopped:
                return
        self._tell("on_forward")
        display = self._is_due(self.param.display)
        self.net.debug_info = display and self.param.debug_info
        if in_one:
            self.lr = self._schedule.rate(self.iter)
            self._iteration.run(self.iter, self.lr)
        else:
            self._iteration.sum_gradients(self.iter)
        if display or self._iteration.must_settle:
            self.settle()
        if display:
            self._show()
        self._tell("on_gradients")
        if not in_one:
            self.lr = self._schedule.rate(self.iter)
        if display:
            say("sgd_solver.cpp:112", "Iteration %d, lr = %g", self.iter, self.lr)
            self._tell("on_display")
        if not in_one:
            self._iteration.update(self.iter, self.lr)
        self.iter += 1
        self._tell("on_iteration")
        if self._is_due(self.param.snapshot) or self._snapshot_requested:
            self.snapshot()
        self._is_to_stop()

    def apply_update(self) -> None:
        """Updates the parameters once from the gradients that they hold, at this iteration's rate.

        For loops of one's own: `iter` stays what it is.
        """
        self.lr = self._schedule.rate(self.iter)
        self._iteration.update(self.iter, self.lr)

    def _is_due(self, interval: int) -> bool:
        return interval > 0 and self.iter % interval == 0

    def _is_to_stop(self) -> bool:
        if self._stop_requested:
            self._stop_requested = False
            self.stopped = True
        return self.stopped

    def _show(self) -> None:
        self._losses.look_at_parameters(self.net, self.iter)
        self._progress.say(self.iter, self.param.display, self.smoothed_loss)
        say_train_outputs(self.net.output_values())

    def _tell(self, event: str, *facts: object) -> None:
        for hook in self.hooks:
            getattr(hook, event)(self, *facts)

    def test_all(self) -> None:
        """Runs every test net over its `test_iter` batches and logs the means of its outputs.

        A stop that is requested meanwhile takes effect at once; the test nets go back to where they were
        before.
        """
        self.settle()
        before = [NetState.of(net) for net in self.test_nets]
        for index in range(len(self.test_nets)):
            results = self._test(index)
            if results is None:
                say("solver.cpp:397", "Test interrupted.")
                for net, state in zip(self.test_nets, before, strict=True):
                    state.restore(net)
                return
            say_test_outputs(results)
            self._tell("on_test", index, results)

    def _test(self, index: int) -> list[OutputValue] | None:
        """The mean outputs of a test net; None where a stop was requested."""
        say("solver.cpp:347", "Iteration %d, Testing net (#%d)", self.iter, index)
        scores = mean_scores(
            self.test_nets[index],
            self.param.test_iter[index],
            self._is_to_stop,
            self.param.ap_version,
            self.param.show_per_class_result,
        )
        if scores is None:
            return None
        # Of no batches Caffe prints the quotient of two zeros.
        if self.param.test_compute_loss and self.param.test_iter[index]:
            say("solver.cpp:401", "Test loss: %g", scores.loss)
        return scores.outputs

    def snapshot(self) -> str:
        """Writes a snapshot of this iteration; returns the path of its solver state.

        Call it between steps; a hook or another thread asks for one with `request_snapshot`.
        """
        self.settle()
        self._losses.look_at_parameters(self.net, self.iter)
        self._snapshot_requested = False
        names = SnapshotNames.at(self.param.snapshot_prefix, self.iter, self.param.snapshot_format)
        state = SolverState(
            iteration=self.iter,
            learned_net=names.weights,
            history=self._updater.history_blobs(),
            current_step=self._schedule.current_step,
        )
        diffs = None
        if self.param.snapshot_diff:
            diffs = {name: [blob.diff for blob in blobs] for name, blobs in self.net.params.items()}
        write_snapshot(names, self.net.definition, self.net.weights(), state, self._side_state, diffs)
        self._snapshot_iter = self.iter
        self._tell("on_snapshot", (names.weights, names.side, names.state))
        return names.state

    def _side_state(self, files: list[FileMark]) -> SideState:
        return SideState(
            iteration=self.iter,
            seed=self.seed,
            threads=thread_count(),
            loss_window=self._losses.state(),
            nets=[NetState.of(net) for net in self._nets],
            files=files,
            loss_scale=scale.state() if (scale := self._iteration.loss_scale) else {},
        )

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Goes on from a snapshot, netc's own or Caffe's, given by its solver state.

        From netc's own the run continues to the same bits; Caffe's does not tell where its readers were.
        Raises NetcError where the snapshot is not whole, or not of this net and solver type; nothing has
        changed then.
        """
        self.settle()
        snapshot = read_snapshot(path)
        self._updater.check_history(snapshot.state.history)
        self._take_seed(snapshot)
        if snapshot.weights_path is not None:
            self.net.load_weights_from(snapshot.weights, snapshot.weights_path)
        self._updater.load_history(snapshot.state.history)
        say("sgd_solver.cpp:336", "SGDSolver: restoring history")
        self.iter = snapshot.state.iteration
        self._schedule.current_step = snapshot.state.current_step
        self._snapshot_iter = self.iter
        self._losses.forget()
        if snapshot.side is not None:
            self._take_side(snapshot.side)
        else:
            log.info(
                "%s has no side file (Caffe writes none): where its run was in the data, in its random "
                "draws and in the mean of its loss is not known, and they start anew",
                snapshot.path,
            )

    def _take_seed(self, snapshot: Snapshot) -> None:
        """Rebuilds the nets where the snapshot's run had drawn another seed than this one has."""
        side = snapshot.side
        if side is None or side.seed == self.seed:
            return
        if self.param.random_seed >= 0:
            log.warning(
                "the snapshot's run had random_seed %d, this one has %d: other random numbers follow",
                side.seed,
                self.seed,
            )
            return
        log.info("Going on with the snapshot's random_seed: %d", side.seed)
        self.close()
        self._make_nets(side.seed)

    def _take_side(self, side: SideState) -> None:
        restore_nets(self._nets, side)
        if side.loss_scale:
            self._iteration.begin_scaling(LossScale(**side.loss_scale))
        self._losses.restore(side.loss_window)
