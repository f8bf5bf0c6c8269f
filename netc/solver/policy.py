"""Learning-rate policies: the rate of an iteration, in the arithmetic that Caffe's come from."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from ctypes import c_float

import numpy as np

from netc.proto import netc_pb2 as pb

log = logging.getLogger(__name__)

LARGEST_POWER = 709.0  # of e, in double


def _single(value: float) -> float:
    """Rounded to float. What two floats give in double, rounded, is what they give in float; and Python's
    numbers take a tenth of the time of NumPy's."""
    return c_float(value).value


def _fixed(p: pb.SolverParameter, iteration: int, step: int) -> float:
    return p.base_lr


def _stepped(p: pb.SolverParameter, iteration: int, step: int) -> float:
    return p.base_lr * _power(p.gamma, step)


def _exp(p: pb.SolverParameter, iteration: int, step: int) -> float:
    return p.base_lr * _power(p.gamma, iteration)


def _inv(p: pb.SolverParameter, iteration: int, step: int) -> float:
    base = _single(1 + _single(p.gamma * _single(iteration)))
    return p.base_lr * _single(_power(base, -p.power))


def _poly(p: pb.SolverParameter, iteration: int, step: int) -> float:
    # Past max_iter the base is negative and Caffe's rate is NaN; it stays at 0 here.
    base = max(_single(1 - _single(_single(iteration) / _single(p.max_iter))), 0.0)
    return p.base_lr * _single(_power(base, p.power))


def _sigmoid(p: pb.SolverParameter, iteration: int, step: int) -> float:
    power = _single(-p.gamma * _single(_single(iteration) - _single(p.stepsize)))
    growth = _single(math.exp(power)) if power < LARGEST_POWER else math.inf
    return p.base_lr * _single(1 / _single(1 + growth))


def _power(base: float, exponent: float) -> float:
    """base ** exponent in double; infinite, or NaN, where Python would raise."""
    try:
        return math.pow(base, exponent)
    except (OverflowError, ValueError):
        with np.errstate(all="ignore"):
            return float(np.power(np.float64(base), np.float64(exponent)))


# Caffe raises to an integer power in double, and does everything else in float.
POLICIES: dict[str, Callable[[pb.SolverParameter, int, int], float]] = {
    "fixed": _fixed,  #      base_lr
    "step": _stepped,  #     base_lr * gamma ^ floor(iter / stepsize)
    "exp": _exp,  #          base_lr * gamma ^ iter
    "inv": _inv,  #          base_lr * (1 + gamma * iter) ^ -power
    "multistep": _stepped,  # base_lr * gamma ^ (number of stepvalues reached)
    "poly": _poly,  #        base_lr * (1 - iter / max_iter) ^ power
    "sigmoid": _sigmoid,  #  base_lr / (1 + exp(-gamma * (iter - stepsize)))
}


class Schedule:
    """The learning rate of one training run, by a definition that `check_solver` has passed.

    current_step: how many steps were taken so far by `step` and `multistep`; a solver state stores it.
    """

    def __init__(self, definition: pb.SolverParameter) -> None:
        self.definition = definition
        self.current_step = 0

    def rate(self, iteration: int) -> float:
        """The rate for the update of this iteration, a float32. Call it in the order of the iterations."""
        self._advance(iteration)
        policy = POLICIES[self.definition.lr_policy]
        return _single(policy(self.definition, iteration, self.current_step))

    def _advance(self, iteration: int) -> None:
        p = self.definition
        if p.lr_policy == "step":
            self.current_step = iteration // p.stepsize
        elif p.lr_policy == "multistep" and self._step_is_due(iteration):
            # One step a call at most, as in Caffe: two equal stepvalues take effect one iteration apart.
            self.current_step += 1
            log.info(
                "MultiStep Status: Iteration %d, step = %d",
                iteration,
                self.current_step,
                extra={"source": "sgd_solver.cpp:53"},
            )

    def _step_is_due(self, iteration: int) -> bool:
        steps = self.definition.stepvalue
        return self.current_step < len(steps) and iteration >= steps[self.current_step]
