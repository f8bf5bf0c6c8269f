"""Which layers belong to a net's state: phase, level and stages against include and exclude rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb


@dataclass(frozen=True)
class State:
    """What a net is built for: the phase, a level, and stages."""

    phase: int
    level: int = 0
    stages: frozenset[str] = frozenset()


# Each condition of a rule: is it stated, and does the state meet it?
_CONDITIONS: tuple[tuple[str, Callable[[pb.NetStateRule, State], bool]], ...] = (
    ("phase", lambda rule, state: not rule.HasField("phase") or rule.phase == state.phase),
    ("min_level", lambda rule, state: not rule.HasField("min_level") or state.level >= rule.min_level),
    ("max_level", lambda rule, state: not rule.HasField("max_level") or state.level <= rule.max_level),
    ("stage", lambda rule, state: state.stages.issuperset(rule.stage)),
    ("not_stage", lambda rule, state: state.stages.isdisjoint(rule.not_stage)),
)


def meets(rule: pb.NetStateRule, state: State) -> bool:
    """Whether a state meets every condition that a rule states."""
    return all(holds(rule, state) for _, holds in _CONDITIONS)


def included(layer: pb.LayerParameter, state: State) -> bool:
    """Whether a layer belongs to the net in this state: any include rule met, or no exclude rule met.

    Raises NetcError where a layer has both kinds of rules.
    """
    if layer.include and layer.exclude:
        raise NetcError(
            "a layer has both include and exclude rules",
            layer=f"{layer.name} ({layer.type})",
            remedy="keep one kind: include to name the states it is for, exclude to name those it is not for",
        )
    if layer.include:
        return any(meets(rule, state) for rule in layer.include)
    return not any(meets(rule, state) for rule in layer.exclude)
