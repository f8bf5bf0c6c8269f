"""Parameters that come from elsewhere: from a weights file by layer name, or lent by another net."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from netc.errors import NetcError, raise_errors
from netc.graph import Node
from netc.layer import Shape
from netc.runtime.blob import Blob
from netc.runtime.places import ParamArrays
from netc.schema.layer_keys import LayerKey, name_of
from netc.schema.stored import StoredArray
from netc.schema.weights import same_shape

log = logging.getLogger(__name__)

Source = np.ndarray | StoredArray
"""A parameter's values, in memory or still in a file."""
RENAME = "rename the layer to learn it from scratch"


def counterparts(layers: Iterable[LayerKey], sources: Iterable[LayerKey]) -> dict[LayerKey, LayerKey]:
    """Which of the layers elsewhere gives each layer of a net its parameters: the first of a name the first
    one's, the second the second one's.

    A layer alone of its name takes the last one's: Caffe copies one after the other into it.
    """
    layers, sources = list(layers), list(sources)
    count = Counter(map(name_of, layers))
    last = {name_of(source): source for source in sources}
    same = set(layers) & set(sources)
    found: dict[LayerKey, LayerKey] = {}
    for layer in layers:
        if count[name_of(layer)] == 1 and layer in last:
            found[layer] = last[name_of(layer)]
        elif layer in same:
            found[layer] = layer
    return found


def take_weights(
    params: Mapping[LayerKey, list[Blob]],
    owned: Mapping[LayerKey, list[bool]],
    layers: Collection[str],
    weights: Mapping[LayerKey, Sequence[Source]],
    origin: str,
) -> None:
    """Copies parameters into the layers of the same name, and logs what finds no counterpart.

    owned: which parameters of a layer are its own, not shared from another; a file may leave those out.
    layers: the names of all layers, those without parameters too.
    Nothing is copied unless everything fits; what lies in a file is then read one parameter after another.
    Raises NetcError, or NetcErrors with every count and shape that disagrees.
    """
    sources = counterparts(params, weights)
    filled = Counter(map(name_of, sources))
    extra = [
        layer
        for layer in weights
        if name_of(layer) not in layers or (filled[name_of(layer)] > 1 and layer not in sources)
    ]
    for layer in extra:
        log.info("Ignoring source layer %s", layer, extra={"source": "net.cpp:746"})
    _say_namesakes(filled, weights, origin)
    pairs: list[tuple[Blob, Source]] = []
    missing: list[LayerKey] = []
    errors: list[NetcError] = []
    for layer, blobs in params.items():
        if layer in sources:
            try:
                pairs += _pairs(str(layer), blobs, owned[layer], list(weights[sources[layer]]), origin)
            except NetcError as error:
                errors.append(error)
        elif any(owned[layer]):
            missing.append(layer)
            log.info("Layer %s is not in %s and keeps its own parameters", layer, origin)
    raise_errors(errors)
    if missing and not pairs:
        log.warning(
            "nothing was loaded: no layer has the name of one in %s, which holds %s; the net's are %s",
            origin,
            ", ".join(map(str, extra)) or "no parameters",
            ", ".join(map(str, missing)),
        )
    for blob, source in pairs:
        if isinstance(source, np.ndarray):
            blob.data[...] = source.reshape(blob.shape)
        else:
            source.read_into(blob.data)


def _say_namesakes(filled: Mapping[str, int], weights: Iterable[LayerKey], origin: str) -> None:
    """Logs what becomes of a file's layers of one name, and where Caffe would do otherwise."""
    for name, count in Counter(map(name_of, weights)).items():
        if count > 1 and filled[name]:
            how = "taken in their order; Caffe would put the last into the first of the net"
            if filled[name] == 1:
                how = "of which the last is taken, as in Caffe"
            log.info("%s holds %d layers called %r, %s", origin, count, name, how)


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
