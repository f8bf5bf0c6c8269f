"""What changed within the current syntax: inputs of the net, parameters of BatchNorm, transforms of data."""

from __future__ import annotations

import logging
from typing import Any

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.schema.upgrade_rule import Place, Report
from netc.schema.upgrade_v1 import TRANSFORMED, TRANSFORMS

log = logging.getLogger(__name__)

BATCH_NORM_PARAMETERS = 3
LEGACY_AXES = 4


def has_input_fields(net: Any) -> bool:
    return len(net.input) > 0


def move_inputs(net: Any, place: Place) -> Report:
    """`input` with `input_shape` or `input_dim` becomes an Input layer, the first of the net.

    Where a net that was stored with its weights leaves the shapes out, the inputs go, as in Caffe.
    """
    count, shapes, dims = len(net.input), len(net.input_shape), len(net.input_dim)
    if not shapes and not dims and any(layer.blobs for layer in net.layer):
        report = Report([f"inputs without shapes are left out: {', '.join(net.input)}"])
        net.ClearField("input")
        return report
    layer = pb.LayerParameter(name="input", type="Input", top=net.input)
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
    names = ", ".join(net.input)
    for name in ("input", "input_shape", "input_dim"):
        net.ClearField(name)
    return Report([f'{place.at("layer", 0)}: {names}: tops of a layer {{ type: "Input" }} now'])


def has_old_batch_norm(net: Any) -> bool:
    return any(_is_old_batch_norm(layer) for layer in net.layer)


def _is_old_batch_norm(layer: Any) -> bool:
    return bool(layer.type == "BatchNorm" and len(layer.param) == BATCH_NORM_PARAMETERS)


def fix_batch_norm(net: Any, place: Place) -> Report:
    """The statistics of BatchNorm are not learned; older nets had to say so themselves."""
    changes = []
    for index, layer in enumerate(net.layer):
        if _is_old_batch_norm(layer):
            for spec in layer.param:
                spec.lr_mult = spec.decay_mult = 0
            where = place.at("layer", index, "param")
            changes.append(f"{where}: layer {layer.name}: lr_mult and decay_mult of every param are now 0")
    return Report(changes)


def warn_of_ignored_transforms(net: Any, place: Place) -> None:
    """Names the transforms in a data layer's own message: Caffe passes over them in silence."""
    for index, layer in enumerate(net.layer):
        for message in TRANSFORMED.values():
            for name in TRANSFORMS if layer.HasField(message) else ():
                if getattr(layer, message).HasField(name):
                    where = place.at("layer", index, message, name)
                    log.warning(
                        f"{where}: layer {layer.name}: {name} in {message} has no effect, as in Caffe; "
                        f"move it to transform_param {{ {name} }}"
                    )
