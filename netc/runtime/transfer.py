"""Parameters that come from elsewhere: from a weights file by layer name, or lent by another net."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from netc.errors import NetcError, raise_errors
from netc.graph import Node
from netc.layer import Shape
from netc.runtime.blob import Blob
from netc.runtime.program import ParamArrays
from netc.schema.stored import StoredArray
from netc.schema.weights import same_shape

log = logging.getLogger(__name__)

Source = np.ndarray | StoredArray
"""A parameter's values, in memory or still in a file."""
RENAME = "rename the layer to learn it from scratch"


def take_weights(
    params: Mapping[str, list[Blob]],
    owned: Mapping[str, list[bool]],
    layers: Collection[str],
    weights: Mapping[str, Sequence[Source]],
    origin: str,
) -> None:
    """Copies parameters into the layers of the same name, and logs what finds no counterpart.

    owned: which parameters of a layer are its own, not shared from another; a file may leave those out.
    Nothing is copied unless everything fits; what lies in a file is then read one parameter after another.
    Raises NetcError, or NetcErrors with every count and shape that disagrees.
    """
    extra = [name for name in weights if name not in layers]
    for name in extra:
        log.info("Ignoring source layer %s", name, extra={"source": "net.cpp:746"})
    pairs: list[tuple[Blob, Source]] = []
    missing: list[str] = []
    errors: list[NetcError] = []
    for name, blobs in params.items():
        if name in weights:
            try:
                pairs += _pairs(name, blobs, owned[name], list(weights[name]), origin)
            except NetcError as error:
                errors.append(error)
        elif any(owned[name]):
            missing.append(name)
            log.info("Layer %s is not in %s and keeps its own parameters", name, origin)
    raise_errors(errors)
    if missing and not pairs:
        log.warning(
            "nothing was loaded: no layer has the name of one in %s, which holds %s; the net's are %s",
            origin,
            ", ".join(extra) or "no parameters",
            ", ".join(missing),
        )
    for blob, source in pairs:
        if isinstance(source, np.ndarray):
            blob.data[...] = source.reshape(blob.shape)
        else:
            source.read_into(blob.data)


def _pairs(
    name: str, blobs: list[Blob], owned: list[bool], arrays: list[Source], origin: str
) -> list[tuple[Blob, Source]]:
    """Which array goes into which parameter of one layer. Raises NetcErrors for those that do not fit."""
    if len(arrays) != len(blobs) and len(arrays) == sum(owned):
        blobs = [blob for blob, own in zip(blobs, owned, strict=True) if own]
    if len(arrays) != len(blobs):
        raise NetcError(
            f"{origin} has another number of parameters for a layer",
            layer=name,
            expected=len(blobs),
            found=len(arrays),
            remedy=RENAME,
        )
    raise_errors(
        NetcError(
            f"{origin} has another shape for parameter {index} of a layer",
            layer=name,
            expected=list(blob.shape),
            found=list(array.shape),
            remedy=RENAME,
        )
        for index, (blob, array) in enumerate(zip(blobs, arrays, strict=True))
        if not same_shape(array.shape, blob.shape)
    )
    return list(zip(blobs, arrays, strict=True))


def borrow(node: Node, index: int, shape: Shape, lent: list[ParamArrays]) -> ParamArrays:
    """A parameter of another net, for the layer of the same name here. Raises NetcError where they differ."""
    if index >= len(lent) or tuple(lent[index].data.shape) != shape:
        raise NetcError(
            f"cannot share parameter {index} with the layer of the same name in the other net",
            at=node.location,
            layer=f"{node.name} ({node.type})",
            expected=list(lent[index].data.shape) if index < len(lent) else f"{len(lent)} parameters",
            found=list(shape),
            remedy="give the layers the same options, or different names",
        )
    return ParamArrays(lent[index].data, lent[index].diff)
