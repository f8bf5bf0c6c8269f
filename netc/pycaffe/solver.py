"""Solvers as pycaffe's users know them: step by step, with the nets at hand in between."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.pycaffe.mode import backend, random_seed
from netc.pycaffe.net import Net
from netc.solver import Hook
from netc.solver import Solver as TrainingLoop
from netc.solver.definition import own_definition

Path = str | os.PathLike[str]
Callback = Callable[[], Any]


class Solver:
    """Trains a net as a solver definition says.

        solver = netc.get_solver("solver.prototxt")
        solver.step(100)
        print(solver.net.blobs["loss"].data, solver.test_nets[0].forward())

    solver_file: a solver prototxt's path, or its message. weights: a weights file to start from. A subclass
    such as AdamSolver trains by its own rule, whatever `type` the definition names. Raises NetcError.
    """

    type: ClassVar[str] = ""  # the update rule; "" takes the definition's

    def __init__(self, solver_file: Path | pb.SolverParameter, *, weights: Path | None = None) -> None:
        definition = own_definition(solver_file, None, self.type)
        seed = random_seed() if definition.random_seed < 0 else None
        if seed is not None:
            definition.random_seed = seed
        if self.type:
            definition.type = self.type
        self._callbacks = _Callbacks()
        self._solver = TrainingLoop(
            definition,
            weights=os.fspath(weights) if weights else None,
            hooks=[self._callbacks],
            keep="all",
            backend=backend(),
        )
        self._net = Net.around(self._solver.net, self, trained=True)
        self._test_nets = [Net.around(net, self) for net in self._solver.test_nets]

    def __del__(self) -> None:
        """Ends the threads and programs that read data, when nobody has the solver or its nets any more."""
        if "_solver" in self.__dict__:
            self._solver.close()

    @property
    def net(self) -> Net:
        """The net that is trained."""
        return self._net

    @property
    def test_nets(self) -> list[Net]:
        """The nets that are tested; they use the trained net's parameters."""
        return list(self._test_nets)

    @property
    def param(self) -> pb.SolverParameter:
        """The definition."""
        return self._solver.param

    @property
    def iter(self) -> int:
        """The number of updates made."""
        return self._solver.iter

    @property
    def max_iter(self) -> int:
        """How many updates `solve` makes in all."""
        return int(self._solver.param.max_iter)

    @property
    def lr(self) -> float:
        """The learning rate of the last update."""
        return self._solver.lr

    @property
    def loss(self) -> float:
        """The last iteration's loss, from before its update."""
        return self._solver.loss

    @property
    def smoothed_loss(self) -> float:
        """The mean loss of the last `average_loss` iterations."""
        return self._solver.smoothed_loss

    def step(self, iterations: int = 1) -> None:
        """Makes this many updates, with the tests, displays and snapshots that fall due on the way."""
        self._solver.step(iterations)

    def solve(self, resume_file: Path | None = None) -> None:
        """Trains until `max_iter`; takes the last snapshot and tests once more. resume_file: a .solverstate
        to go on from."""
        if resume_file:
            self.restore(resume_file)
        self._solver.solve()

    def restore(self, state_file: Path) -> None:
        """Goes on from a snapshot, netc's own or Caffe's, given by its .solverstate. Raises NetcError."""
        self._solver.restore(state_file)
        nets = [self._solver.net, *self._solver.test_nets]
        for face, net in zip([self._net, *self._test_nets], nets, strict=True):
            face._reattach(net)

    def snapshot(self) -> str:
        """Writes a snapshot of this iteration; returns the path of its solver state."""
        return self._solver.snapshot()

    def apply_update(self) -> None:
        """Updates the parameters once from the gradients that they hold, for loops of your own."""
        self._solver.apply_update()

    def share_weights(self, net: Net) -> None:
        """Makes another net use the trained net's parameters, in the layers of the same name."""
        net.share_with(self._net)

    def add_callback(self, on_start: Callback, on_gradients_ready: Callback | None = None) -> None:
        """Calls back in every iteration: before its first forward pass, and between the gradients and the
        update."""
        if not callable(on_start):
            raise NetcError("a callback must be a function", found=on_start)
        self._callbacks.starts.append(on_start)
        if on_gradients_ready is not None:
            self._callbacks.gradients.append(on_gradients_ready)

    def add_hook(self, hook: Hook) -> None:
        """Hangs a `netc.solver.Hook` on the loop: it hears of iterations, tests, displays and snapshots."""
        self._solver.hooks.append(hook)

    def close(self) -> None:
        """Closes the files and databases that the nets read now, not when the solver is let go."""
        self._solver.close()


class _Callbacks(Hook):
    """Calls the functions that `add_callback` was given."""

    def __init__(self) -> None:
        self.starts: list[Callback] = []
        self.gradients: list[Callback] = []

    @property
    def waits_for_gradients(self) -> bool:
        return bool(self.gradients)

    def on_forward(self, solver: TrainingLoop) -> None:
        for callback in self.starts:
            callback()

    def on_gradients(self, solver: TrainingLoop) -> None:
        for callback in self.gradients:
            callback()


class SGDSolver(Solver):
    """Stochastic gradient descent with momentum."""

    type = "SGD"


class NesterovSolver(Solver):
    """Nesterov's accelerated gradient."""

    type = "Nesterov"


class AdaGradSolver(Solver):
    """AdaGrad: rates that fall with the sum of squared gradients."""

    type = "AdaGrad"


class RMSPropSolver(Solver):
    """RMSProp: rates by a running mean of squared gradients."""

    type = "RMSProp"


class AdaDeltaSolver(Solver):
    """AdaDelta: steps of the size of the last ones."""

    type = "AdaDelta"


class AdamSolver(Solver):
    """Adam: running means of gradients and of their squares."""

    type = "Adam"


SOLVERS: dict[str, type[Solver]] = {
    solver.type: solver
    for solver in (SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver)
}


def get_solver(solver_file: Path | pb.SolverParameter, *, weights: Path | None = None) -> Solver:
    """The solver of the `type` that a definition names. Raises NetcError."""
    definition = own_definition(solver_file, None)
    return SOLVERS.get(definition.type, Solver)(definition, weights=weights)
