"""Update rules: how a gradient and its history become the change of a parameter. The formulas are Caffe's.

In every formula g is the gradient (already clipped, normalised and regularised), h a history array, a the
local learning rate (the policy's rate times `lr_mult`), u the update; then w <- w - u. A rule works on flat
arrays of one block, in place, with scratch arrays of the same size: it allocates nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import ClassVar

from netc.errors import NetcError
from netc.layer.base import Array
from netc.proto import netc_pb2 as pb
from netc.schema.positions import Positions


class Rule:
    """One solver type. `update` turns a block's gradient into its update and moves its history on."""

    type: ClassVar[str]  # the name in prototxt
    history_count: ClassVar[int] = 1  # arrays of the parameters' layout that outlive an iteration
    scratch_count: ClassVar[int] = 1

    def __init__(self, definition: pb.SolverParameter, positions: Positions | None = None) -> None:
        """positions: where the definition's fields stand in its file. Raises as `check`."""
        self.momentum: float = definition.momentum
        self.delta: float = definition.delta
        self._positions = positions
        self.check(definition)

    def check(self, definition: pb.SolverParameter) -> None:
        """Raises NetcError where the solver's fields make no sense for this rule."""

    def begin(self, iteration: int) -> None:
        """Called once before the blocks of an iteration."""

    def update(
        self, xp: ModuleType, g: Array, history: Sequence[Array], scratch: Sequence[Array], rate: float
    ) -> None:
        """Writes the update into `g`, the new history into `history`."""
        raise NotImplementedError

    def _refuse(self, field: str, found: float, expected: str) -> NetcError:
        return NetcError(
            f"{self.type} cannot run with {field}: {found:g}",
            at=self._positions.at(field) if self._positions else None,
            expected=expected,
            found=f"{found:g}",
            remedy=f"set {field} in the solver to {expected}, or choose another solver type",
        )


class SGD(Rule):
    """h <- m h + a g;  u = h.

    Stochastic gradient descent with momentum. (Polyak, "Some methods of speeding up the convergence of
    iteration methods", 1964; the rate inside the momentum as in Krizhevsky et al., 2012)
    """

    type = "SGD"
    scratch_count = 0

    def update(
        self, xp: ModuleType, g: Array, history: Sequence[Array], scratch: Sequence[Array], rate: float
    ) -> None:
        h = history[0]
        xp.multiply(g, rate, out=g)
        xp.multiply(h, self.momentum, out=h)
        xp.add(h, g, out=h)
        g[...] = h


class Nesterov(Rule):
    """h' = m h + a g;  u = (1 + m) h' - m h;  h <- h'.

    (Nesterov, 1983; in this form: Sutskever et al., "On the importance of initialization and momentum in deep
    learning", 2013)
    """

    type = "Nesterov"

    def update(
        self, xp: ModuleType, g: Array, history: Sequence[Array], scratch: Sequence[Array], rate: float
    ) -> None:
        h, old = history[0], scratch[0]
        xp.multiply(h, self.momentum, out=old)
        xp.multiply(g, rate, out=g)
        xp.add(old, g, out=h)
        xp.multiply(h, 1 + self.momentum, out=g)
        xp.subtract(g, old, out=g)


class AdaGrad(Rule):
    """h <- h + g^2;  u = a g / (sqrt(h) + delta).

    (Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and stochastic optimization",
    2011)
    """

    type = "AdaGrad"

    def check(self, definition: pb.SolverParameter) -> None:
        if definition.momentum != 0:
            raise self._refuse("momentum", definition.momentum, "0")

    def update(
        self, xp: ModuleType, g: Array, history: Sequence[Array], scratch: Sequence[Array], rate: float
    ) -> None:
        h, t = history[0], scratch[0]
        xp.multiply(g, g, out=t)
        xp.add(h, t, out=h)
        _divide_by_root(xp, g, h, self.delta, t)
        xp.multiply(g, rate, out=g)


class RMSProp(Rule):
    """h <- d h + (1 - d) g^2;  u = a g / (sqrt(h) + delta), where d is `rms_decay`.

    (Tieleman and Hinton, "Lecture 6.5: rmsprop", Coursera, 2012)
    """

    type = "RMSProp"

    def __init__(self, definition: pb.SolverParameter, positions: Positions | None = None) -> None:
        self.decay: float = definition.rms_decay
        super().__init__(definition, positions)

    def check(self, definition: pb.SolverParameter) -> None:
        if definition.momentum != 0:
            raise self._refuse("momentum", definition.momentum, "0")
        if not 0 <= definition.rms_decay < 1:
            raise self._refuse("rms_decay", definition.rms_decay, "at least 0 and below 1")

    def update(
        self, xp: ModuleType, g: Array, history: Sequence[Array], scratch: Sequence[Array], rate: float
    ) -> None:
        h, t = history[0], scratch[0]
        xp.multiply(g, g, out=t)
        _average_into(xp, h, t, self.decay)
        _divide_by_root(xp, g, h, self.delta, t)
        xp.multiply(g, rate, out=g)


class AdaDelta(Rule):
    """h <- m h + (1 - m) g^2;  v = g sqrt((s + delta) / (h + delta));  s <- m s + (1 - m) v^2;  u = a v.

    `momentum` m is the decay of both averages. (Zeiler, "ADADELTA: an adaptive learning rate method", 2012)
    """

    type = "AdaDelta"
    history_count = 2
    scratch_count = 2

    def update(
        self, xp: ModuleType, g: Array, history: Sequence[Array], scratch: Sequence[Array], rate: float
    ) -> None:
        h, s = history
        t, ratio = scratch
        xp.multiply(g, g, out=t)
        _average_into(xp, h, t, self.momentum)
        xp.add(s, self.delta, out=ratio)
        xp.add(h, self.delta, out=t)
        xp.divide(ratio, t, out=ratio)
        xp.sqrt(ratio, out=ratio)
        xp.multiply(g, ratio, out=g)
        xp.multiply(g, g, out=t)
        _average_into(xp, s, t, self.momentum)
        xp.multiply(g, rate, out=g)


class Adam(Rule):
    """m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  u = a c m / (sqrt(v) + delta).

    c = sqrt(1 - b2^t) / (1 - b1^t) corrects the bias of both averages, t counts updates from 1; b1 is
    `momentum`, b2 `momentum2`; delta is not corrected. (Kingma and Ba, "Adam: a method for stochastic
    optimization", 2015, end of section 2)
    """

    type = "Adam"
    history_count = 2

    def __init__(self, definition: pb.SolverParameter, positions: Positions | None = None) -> None:
        self.momentum2: float = definition.momentum2
        self.correction = 1.0
        super().__init__(definition, positions)

    def check(self, definition: pb.SolverParameter) -> None:
        for field in ("momentum", "momentum2"):
            value = getattr(definition, field)
            if not 0 <= value < 1:
                raise self._refuse(field, value, "at least 0 and below 1")

    def begin(self, iteration: int) -> None:
        t = iteration + 1
        self.correction = math.sqrt(1 - self.momentum2**t) / (1 - self.momentum**t)

    def update(
        self, xp: ModuleType, g: Array, history: Sequence[Array], scratch: Sequence[Array], rate: float
    ) -> None:
        (m, v), t = history, scratch[0]
        xp.multiply(g, g, out=t)
        _average_into(xp, v, t, self.momentum2)
        _average_into(xp, m, g, self.momentum)
        xp.sqrt(v, out=t)
        xp.add(t, self.delta, out=t)
        xp.divide(m, t, out=g)
        xp.multiply(g, rate * self.correction, out=g)


def _average_into(xp: ModuleType, average: Array, new: Array, decay: float) -> None:
    """average <- decay * average + (1 - decay) * new; `new` is used up."""
    xp.multiply(new, 1 - decay, out=new)
    xp.multiply(average, decay, out=average)
    xp.add(average, new, out=average)


def _divide_by_root(xp: ModuleType, g: Array, h: Array, delta: float, t: Array) -> None:
    """g <- g / (sqrt(h) + delta)."""
    xp.sqrt(h, out=t)
    xp.add(t, delta, out=t)
    xp.divide(g, t, out=g)


RULES: dict[str, type[Rule]] = {rule.type: rule for rule in (SGD, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam)}
