"""Options that a layer states and its type does not read, such as pooling_param in a Convolution."""

from __future__ import annotations

import logging

from netc.layer import Layer
from netc.proto import netc_pb2 as pb

log = logging.getLogger(__name__)


def unread_options(known: type[Layer], spec: pb.LayerParameter) -> list[str]:
    """The names of the option messages of a layer that its type, `known`, does not read."""
    read = (known.options_field, *known.other_options)
    stated = [field.name for field, _ in spec.ListFields() if field.name.endswith("_param")]
    return [name for name in stated if name not in read]


def say_what_is_read(known: type[Layer]) -> str:
    """Where a type's options belong."""
    return f"its options belong in {known.options_field}" if known.options_field else "it has no options"


def warn_of_unread_options(layer: Layer) -> None:
    """Names the options that have no effect: Caffe passes over them in silence."""
    known = type(layer)
    for name in unread_options(known, layer.spec):
        log.warning(
            "%s: layer %s: %s has no effect on a layer of type %s; %s",
            layer.locate(name),
            layer.name,
            name,
            layer.type,
            say_what_is_read(known),
        )
