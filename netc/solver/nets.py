"""Which nets a solver definition asks for: one to train, any number to test, each in its state."""

from __future__ import annotations

import os
from dataclasses import dataclass

from netc.proto import netc_pb2 as pb
from netc.schema.net import read_net
from netc.schema.positions import Positions
from netc.schema.solver import TRAIN_NETS


@dataclass(frozen=True)
class NetSpec:
    """One net of a solver: where it comes from, in words, its message, and the state that it is built for.

    The state is merged from the phase, the net's own `state`, and the solver's `train_state` or `test_state`.
    """

    origin: str
    definition: pb.NetParameter
    positions: Positions | None
    state: pb.NetState


def replace_model(definition: pb.SolverParameter, path: str) -> None:
    """Makes `path` the net that the solver trains and tests, whatever it named before."""
    for field in (*TRAIN_NETS, "test_net", "test_net_param"):
        definition.ClearField(field)
    definition.net = path


def train_net_spec(definition: pb.SolverParameter) -> NetSpec:
    """The net to train, of a definition that `check_solver` has passed. Raises NetcError if unreadable."""
    field = next(field for field in TRAIN_NETS if definition.HasField(field))
    return _spec(definition, field, None, pb.TRAIN, definition.train_state)


def test_net_specs(definition: pb.SolverParameter) -> list[NetSpec]:
    """The nets to test, in Caffe's order: test_net_param, test_net, the net itself for other test_iters."""
    places: list[tuple[str, int | None]] = []
    for field in ("test_net_param", "test_net"):
        places += [(field, index) for index in range(len(getattr(definition, field)))]
    shared = "net_param" if definition.HasField("net_param") else "net"
    places += [(shared, None)] * (len(definition.test_iter) - len(places))
    states = definition.test_state or [pb.NetState()] * len(places)
    return [
        _spec(definition, field, index, pb.TEST, state)
        for (field, index), state in zip(places, states, strict=True)
    ]


def _spec(
    definition: pb.SolverParameter, field: str, index: int | None, phase: int, state: pb.NetState
) -> NetSpec:
    value = getattr(definition, field) if index is None else getattr(definition, field)[index]
    net, positions = value, None
    origin = field
    if isinstance(value, str):
        parsed = read_net(os.fspath(value))
        net, positions = parsed.message, parsed.positions
        origin = f"{field} file: {value}"
    merged = pb.NetState(phase=phase)
    merged.MergeFrom(net.state)
    merged.MergeFrom(state)
    return NetSpec(origin, net, positions, merged)
