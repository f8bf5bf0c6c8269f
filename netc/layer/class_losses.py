"""Losses of class scores, place by place: of scores (..., C) and labels (...), for layers that choose the
places that count.

A label of -1 is no class: all targets of a logistic loss are 0 then.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from netc.layer.activation import log_1_plus_exp, sigmoid
from netc.layer.base import Array
from netc.layer.loss import SMALLEST_PROBABILITY

SMALLEST_LIKELIHOOD = math.log(SMALLEST_PROBABILITY)


@dataclass(frozen=True)
class ClassLoss:
    """`losses`: what is lost at every place, (...); `slopes`: its gradient, (..., C)."""

    losses: Callable[[ModuleType, Array, Array], Array]
    slopes: Callable[[ModuleType, Array, Array], Array]


def _softmax_losses(xp: ModuleType, scores: Array, labels: Array) -> Array:
    raised = scores - scores.max(axis=-1, keepdims=True)
    chosen = xp.take_along_axis(raised, labels[..., None], axis=-1)[..., 0]
    likelihood = chosen - xp.log(xp.exp(raised).sum(axis=-1))
    return -xp.maximum(likelihood, SMALLEST_LIKELIHOOD)


def _softmax_slopes(xp: ModuleType, scores: Array, labels: Array) -> Array:
    slopes = xp.exp(scores - scores.max(axis=-1, keepdims=True))
    slopes /= slopes.sum(axis=-1, keepdims=True)
    return slopes - _targets(xp, scores, labels)


def _logistic_losses(xp: ModuleType, scores: Array, labels: Array) -> Array:
    losses = xp.maximum(scores, 0) - scores * _targets(xp, scores, labels)
    return (losses + log_1_plus_exp(xp, -xp.abs(scores))).sum(axis=-1)


def _logistic_slopes(xp: ModuleType, scores: Array, labels: Array) -> Array:
    slopes = xp.empty_like(scores)
    sigmoid(xp, scores, out=slopes)
    return slopes - _targets(xp, scores, labels)


def _targets(xp: ModuleType, scores: Array, labels: Array) -> Array:
    """1 for the class of each place, 0 for the others."""
    return labels[..., None] == xp.arange(scores.shape[-1])


SOFTMAX = ClassLoss(_softmax_losses, _softmax_slopes)
LOGISTIC = ClassLoss(_logistic_losses, _logistic_slopes)
