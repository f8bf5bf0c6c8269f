"""What can be hung on a solver (progress bars, plots, event logs): methods that it calls while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from netc.runtime import OutputValue

if TYPE_CHECKING:
    from netc.solver.solver import Solver


class Hook:
    """Overrides what it wants to hear of. All calls come from the training thread, between two passes."""

    @property
    def waits_for_gradients(self) -> bool:
        """Whether `on_gradients` has to come before the update, which may be over by then otherwise."""
        return type(self).on_gradients is not Hook.on_gradients

    def on_start(self, solver: Solver) -> None:
        """`solve` begins; `solver.iter` is where it starts from."""

    def on_forward(self, solver: Solver) -> None:
        """The iteration `solver.iter` begins: before its first forward pass, after a test that was due."""

    def on_gradients(self, solver: Solver) -> None:
        """The iteration's gradients are summed; the update comes next, and takes what they are then."""

    def on_iteration(self, solver: Solver) -> None:
        """An update was made: `solver.iter` counts it, `solver.loss` is the loss from before it."""

    def on_display(self, solver: Solver) -> None:
        """`solver.iter` was logged, with `solver.smoothed_loss`, `solver.lr` and the train net's outputs.

        Where no hook waits for gradients, the update may have been made already.
        """

    def on_test(self, solver: Solver, test_net_index: int, results: Sequence[OutputValue]) -> None:
        """A test net was run; `results` holds its outputs' means over `test_iter` batches."""

    def on_snapshot(self, solver: Solver, files: Sequence[str]) -> None:
        """A snapshot was written, whole: its weights, what Caffe forgets, its solver state."""

    def on_end(self, solver: Solver) -> None:
        """`solve` is over: done, stopped, or failed."""
