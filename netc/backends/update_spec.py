"""What an update of all parameters is to do, and what is made of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from netc.backends.form import Run
from netc.layer import Array


class Stretch(NamedTuple):
    """Neighbouring elements of the flat arrays, which are updated alike; decay: weight_decay * decay_mult."""

    start: int
    elements: int
    lr_mult: float
    decay: float

    @property
    def stop(self) -> int:
        return self.start + self.elements


@dataclass(frozen=True)
class UpdateSpec:
    """A solver's rule over flat arrays.

    type: the solver type; momentum2: RMSProp's is its rms_decay; l1: L1 regularisation in place of L2; clip:
    the most that the gradients' L2 norm may be, negative for no limit; stretches: what is updated.
    """

    type: str
    momentum: float
    momentum2: float
    delta: float
    l1: bool
    clip: float
    iter_size: int
    stretches: tuple[Stretch, ...]


class Update(Protocol):
    """An update that is bound to its arrays: told what changes from one to the next, run, and asked how it
    went.

    capturable: whether `run` may be recorded once and replayed, which needs that no decision in it is made on
    the host.
    """

    capturable: bool

    def prepare(self, iteration: int, rate: float) -> None:
        """Says what the next `run` is to take. iteration: the number of updates made before; rate: the
        learning rate."""

    def run(self) -> None:
        """Clips, divides by iter_size, regularises, applies the rule and subtracts; the gradients are left
        holding the updates. Changes nothing where the loss is scaled and one of them is not a finite
        number; moves the scale on, as `netc.backends.loss_scale` says."""

    def outcome(self) -> bool:
        """Whether the last `run` has changed the parameters; says in the log what was clipped."""


class CapturableUpdate(Update, Protocol):
    """An update that may be recorded, and then runs several times before anybody asks how that went.

    notes: where a run leaves how it went, arrays of one element of 4 bytes each.
    """

    notes: Sequence[Array]

    def outcome_of(self, noted: np.ndarray) -> bool:
        """As `outcome`, of the run that has left these numbers (float32, bit by bit) in `notes`."""


@runtime_checkable
class PiecewiseUpdate(CapturableUpdate, Protocol):
    """An update that can take a parameter's gradient piece by piece, of which no more than one has to exist
    at a time (LOMO, Lv et al. 2023, takes whole parameters so)."""

    def only(self, stretches: Iterable[Stretch]) -> PiecewiseUpdate:
        """The same update of nothing but these stretches."""

    def in_pieces(self, stretch: Stretch, gradient: Array) -> Sequence[Run]:
        """One update of a stretch, which `prepare` prepares too: a run for each piece of it, from its start
        on. Every piece has as many elements as `gradient`, the last maybe fewer; that holds the piece's
        gradients when its run begins, and anything afterwards."""
