"""Brings older nets and solvers up to the current schema, as Caffe does: a table of rules for each."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.schema.atomic import replacing
from netc.schema.positions import Path as FieldPath
from netc.schema.positions import Positions
from netc.schema.reading import read_bytes
from netc.schema.text import read_text
from netc.schema.upgrade_rule import Place, Report, Rule, apply_rules
from netc.schema.upgrade_v0 import is_v0, upgrade_v0
from netc.schema.upgrade_v1 import has_old_transforms, is_v1, move_transforms, refuse_mixed, upgrade_v1
from netc.schema.upgrade_v2 import (
    fix_batch_norm,
    has_input_fields,
    has_old_batch_norm,
    move_inputs,
    warn_of_ignored_transforms,
)

log = logging.getLogger(__name__)

SOLVER_TYPES = {
    pb.SolverParameter.SGD: "SGD",
    pb.SolverParameter.NESTEROV: "Nesterov",
    pb.SolverParameter.ADAGRAD: "AdaGrad",
    pb.SolverParameter.RMSPROP: "RMSProp",
    pb.SolverParameter.ADADELTA: "AdaDelta",
    pb.SolverParameter.ADAM: "Adam",
}


def _rule(needed: Any, change: Any, begins: str, ends: str, lines: tuple[int, int]) -> Rule:
    first, last = (f"upgrade_proto.cpp:{line}" for line in lines)
    return Rule(needed, change, (begins, first), (ends, last))


_FILE = "input file specified using deprecated"
_ENDS = "file specified using deprecated"
# In Caffe's order: each rule finds what the ones before it have made.
NET_RULES = (
    _rule(is_v0, upgrade_v0, f"{_FILE} V0LayerParameter", f"{_ENDS} V0LayerParameter", (28, 36)),
    _rule(
        has_old_transforms,
        move_transforms,
        f"{_FILE} transformation parameters",
        f"{_ENDS} data transformation parameters.",
        (46, 49),
    ),
    _rule(is_v1, upgrade_v1, f"{_FILE} V1LayerParameter", f"{_ENDS} V1LayerParameter", (55, 63)),
    _rule(has_input_fields, move_inputs, f"{_FILE} input fields", f"{_ENDS} input fields.", (69, 72)),
    _rule(
        has_old_batch_norm,
        fix_batch_norm,
        "batch norm layers using deprecated params",
        "batch norm layers using deprecated params.",
        (79, 82),
    ),
)


def net_needs_upgrade(net: Any) -> bool:
    """Whether a NetParameter is of an older form than the current one."""
    return any(rule.is_needed(net) for rule in NET_RULES)


def upgrade_net(net: Any, positions: Positions, path: FieldPath = ()) -> bool:
    """Brings a NetParameter up to date, in place, and its positions with it; whether it was old.

    Raises NetcError.
    """
    place = Place(positions, path)
    refuse_mixed(net, place)
    warn_of_ignored_transforms(net, place)
    return apply_rules(net, place, NET_RULES)


def upgrade_solver(solver: Any, positions: Positions) -> bool:
    """Brings a SolverParameter up to date, in place, with the nets in it; whether any of it was old.

    Raises NetcError.
    """
    old = apply_rules(solver, Place(positions), SOLVER_RULES)
    for name in ("net_param", "train_net_param"):
        if solver.HasField(name):
            old |= upgrade_net(getattr(solver, name), positions, (name,))
    for index, net in enumerate(solver.test_net_param):
        old |= upgrade_net(net, positions, ("test_net_param", index))
    return old


# Solvers


def _name_type(solver: Any, place: Place) -> Report:
    if solver.HasField("type"):
        raise NetcError(
            "the solver has both the old solver_type and the new type",
            at=place.at("solver_type"),
            remedy=f'remove solver_type and keep type: "{solver.type}"',
        )
    solver.type = SOLVER_TYPES[solver.solver_type]
    solver.ClearField("solver_type")
    return Report([f'{place.at("solver_type")}: solver_type to type: it is now type: "{solver.type}"'])


SOLVER_RULES = (
    Rule(
        lambda solver: solver.HasField("solver_type"),
        _name_type,
        (f"{_FILE} 'solver_type' field (enum)", ""),
        (f"{_ENDS} 'solver_type' field (enum) to 'type' field (string).", ""),
    ),
)


def complete_snapshot_prefix(solver: Any, positions: Positions) -> None:
    """Without a snapshot_prefix the solver's own path, less its suffix, is used; in a folder, its name."""
    given = solver.snapshot_prefix
    if solver.HasField("snapshot_prefix") and not Path(given).is_dir():
        return
    own = Path(positions.file).with_suffix("")
    solver.snapshot_prefix = os.path.join(given, own.name) if given else str(own)
    log.info("%s: snapshot_prefix, from the solver's name: %s", positions.file, solver.snapshot_prefix)


# Whole files, for the commands that rewrite them


def upgrade_net_text(path: str | os.PathLike[str]) -> Any:
    """The net in a prototxt file of any age as a current NetParameter. Raises NetcError."""
    parsed = read_text(path, pb.NetParameter)
    _tell_whether_old(upgrade_net(parsed.message, parsed.positions), path, "upgrade_net_proto_text.cpp:43")
    return parsed.message


def upgrade_solver_text(path: str | os.PathLike[str]) -> Any:
    """The solver in a prototxt file of any age as a current SolverParameter, unchecked. Raises NetcError."""
    parsed = read_text(path, pb.SolverParameter)
    _tell_whether_old(upgrade_solver(parsed.message, parsed.positions), path)
    return parsed.message


def upgrade_net_binary(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Writes the net of a binary file of any age, weights and all, as a current one. Raises NetcError."""
    net = pb.NetParameter()
    try:
        net.ParseFromString(read_bytes(source))
    except DecodeError as error:
        raise NetcError(
            "the file is no NetParameter",
            at=os.fspath(source),
            expected="a .caffemodel or another net in protobuf's binary form",
            remedy="for a prototxt use upgrade_net_proto_text",
        ) from error
    _tell_whether_old(upgrade_net(net, Positions.unknown(os.fspath(source))), source)
    with replacing(target) as temporary:
        temporary.write_bytes(net.SerializePartialToString())


def _tell_whether_old(was_old: bool, path: str | os.PathLike[str], source: str = "") -> None:
    """Says of a file that needed no upgrade so, at the place in Caffe's source that does."""
    if not was_old:
        log.error("File already in latest proto format: %s", os.fspath(path), extra={"source": source})
