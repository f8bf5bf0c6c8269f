"""Brings older nets and solvers up to the current schema, as Caffe does: a table of rules for each."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.schema.positions import Path as FieldPath
from netc.schema.positions import Positions

log = logging.getLogger(__name__)

SOLVER_TYPES = {
    pb.SolverParameter.SGD: "SGD",
    pb.SolverParameter.NESTEROV: "Nesterov",
    pb.SolverParameter.ADAGRAD: "AdaGrad",
    pb.SolverParameter.RMSPROP: "RMSProp",
    pb.SolverParameter.ADADELTA: "AdaDelta",
    pb.SolverParameter.ADAM: "Adam",
}
# Transforms in a data layer's own message. Those of V1 `layers` move to transform_param; those in `layer` are
# passed over by Caffe in silence.
OLD_TRANSFORMS = ("scale", "mean_file", "crop_size", "mirror")
OLD_TRANSFORM_MESSAGES = ("data_param", "image_data_param", "window_data_param")
BATCH_NORM_PARAMETERS = 3
LEGACY_AXES = 4


@dataclass(frozen=True)
class Place:
    """Where the message to upgrade stands: the positions of its file, and its path there."""

    positions: Positions
    path: FieldPath = ()

    def at(self, *path: str | int) -> Any:
        return self.positions.at(*self.path, *path)


@dataclass(frozen=True)
class Rule:
    """What to log, when it is needed, and the change itself, made in place; it may raise NetcError."""

    title: str
    is_needed: Callable[[Any], bool]
    apply: Callable[[Any, Place], None]


def upgrade_net(net: Any, positions: Positions, path: FieldPath = ()) -> None:
    """Brings a NetParameter up to date, in place, and its positions with it. Raises NetcError."""
    _upgrade(net, Place(positions, path), NET_RULES)


def upgrade_solver(solver: Any, positions: Positions) -> None:
    """Brings a SolverParameter up to date, in place, with the nets in it. Raises NetcError."""
    _upgrade(solver, Place(positions), SOLVER_RULES)
    for name in ("net_param", "train_net_param"):
        if solver.HasField(name):
            upgrade_net(getattr(solver, name), positions, (name,))
    for index, net in enumerate(solver.test_net_param):
        upgrade_net(net, positions, ("test_net_param", index))


def _upgrade(message: Any, place: Place, rules: tuple[Rule, ...]) -> None:
    for rule in rules:
        if rule.is_needed(message):
            rule.apply(message, place)
            if rule.title:
                log.info("%s: upgraded %s", place.positions.file, rule.title)


# Nets


def _refuse_v1(net: Any, place: Place) -> None:
    if net.layer:
        raise NetcError(
            "the net mixes `layer` and `layers`",
            at=place.at("layers", 0),
            remedy="write every layer as layer { ... }",
        )
    v0 = any(layer.HasField("layer") for layer in net.layers)
    raise NetcError(
        f"the net is written in the {'first' if v0 else 'second'} syntax of Caffe, which is not read yet",
        at=place.at("layers", 0),
        expected='layer { type: "Convolution" ... }',
        found='layers { layer { type: "conv" ... } }' if v0 else "layers { type: CONVOLUTION ... }",
        remedy="rewrite it with Caffe's upgrade_net_proto_text",
    )


def _move_inputs(net: Any, place: Place) -> None:
    """`input` with `input_shape` or `input_dim` becomes an Input layer, the first of the net."""
    layer = pb.LayerParameter(name="input", type="Input", top=net.input)
    count, shapes, dims = len(net.input), len(net.input_shape), len(net.input_dim)
    if shapes:
        if shapes != count:
            raise NetcError(
                "each input needs an input_shape", at=place.at("input_shape"), expected=count, found=shapes
            )
        layer.input_param.shape.extend(net.input_shape)
    else:
        if dims != LEGACY_AXES * count:
            raise NetcError(
                "each input needs four input_dim",
                at=place.at("input_dim" if dims else "input"),
                expected=LEGACY_AXES * count,
                found=dims,
                remedy='write layer { type: "Input" top: "data" input_param { shape { dim: ... } } } instead',
            )
        for start in range(0, dims, LEGACY_AXES):
            layer.input_param.shape.add().dim.extend(net.input_dim[start : start + LEGACY_AXES])
    layers = [layer, *net.layer]
    del net.layer[:]
    net.layer.extend(layers)
    place.positions.insert((*place.path, "layer"), 0, (*place.path, "input", 0))
    for name in ("input", "input_shape", "input_dim"):
        net.ClearField(name)


def _has_old_batch_norm(net: Any) -> bool:
    return any(_is_old_batch_norm(layer) for layer in net.layer)


def _is_old_batch_norm(layer: Any) -> bool:
    return bool(layer.type == "BatchNorm" and len(layer.param) == BATCH_NORM_PARAMETERS)


def _fix_batch_norm(net: Any, place: Place) -> None:
    """The statistics of BatchNorm are not learned; older nets had to say so themselves."""
    for layer in filter(_is_old_batch_norm, net.layer):
        for spec in layer.param:
            spec.lr_mult = spec.decay_mult = 0


def _ignored_transforms(net: Any) -> list[tuple[int, str, str]]:
    return [
        (index, message, name)
        for index, layer in enumerate(net.layer)
        for message in OLD_TRANSFORM_MESSAGES
        if layer.HasField(message)
        for name in OLD_TRANSFORMS
        if getattr(layer, message).HasField(name)
    ]


def _warn_of_transforms(net: Any, place: Place) -> None:
    for index, message, name in _ignored_transforms(net):
        log.warning(
            "%s: layer %s: %s in %s has no effect, as in Caffe; move it to transform_param { %s }",
            place.at("layer", index, message, name),
            net.layer[index].name,
            name,
            message,
            name,
        )


NET_RULES = (
    Rule("", lambda net: len(net.layers) > 0, _refuse_v1),
    Rule("", lambda net: bool(_ignored_transforms(net)), _warn_of_transforms),
    Rule("the input fields to an Input layer", lambda net: len(net.input) > 0, _move_inputs),
    Rule("BatchNorm layers: their parameters are not learned", _has_old_batch_norm, _fix_batch_norm),
)


# Solvers


def _name_type(solver: Any, place: Place) -> None:
    if solver.HasField("type"):
        raise NetcError(
            "the solver has both the old solver_type and the new type",
            at=place.at("solver_type"),
            remedy=f'remove solver_type and keep type: "{solver.type}"',
        )
    solver.type = SOLVER_TYPES[solver.solver_type]
    solver.ClearField("solver_type")


def _needs_prefix(solver: Any) -> bool:
    return not solver.HasField("snapshot_prefix") or Path(solver.snapshot_prefix).is_dir()


def _set_prefix(solver: Any, place: Place) -> None:
    """Without a snapshot_prefix the solver's own path, less its suffix, is used; in a folder, its name."""
    own = Path(place.positions.file).with_suffix("")
    given = solver.HasField("snapshot_prefix")
    solver.snapshot_prefix = os.path.join(solver.snapshot_prefix, own.name) if given else str(own)


SOLVER_RULES = (
    Rule("solver_type to type", lambda solver: solver.HasField("solver_type"), _name_type),
    Rule("snapshot_prefix, from the solver's name", _needs_prefix, _set_prefix),
)
