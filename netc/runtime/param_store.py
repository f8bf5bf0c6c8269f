"""Every layer's parameters: found their memory once, and the same whatever shapes the net takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from netc.backends.backend import Backend
from netc.errors import Location, NetcError
from netc.graph import Graph, Node, Param
from netc.layer.filler import fill
from netc.layer.random import stream
from netc.proto import netc_pb2 as pb
from netc.runtime.blob import Blob
from netc.runtime.largest import naming_the_largest, param_elements
from netc.runtime.lending import Lending
from netc.runtime.parameters import Parameters
from netc.runtime.places import ParamArrays
from netc.runtime.transfer import borrow, counterparts
from netc.schema.layer_keys import LayerKey, part_name


class ParamStore:
    """The parameters of a net.

    flat: the arenas of those it owns; arrays: every layer's, by layer and index; by_layer: the same, by
    layer; blobs: the same as their users see them. lent: another net's, used in the layers of the same name.
    Raises NetcError for a filler that makes no sense, for lent parameters of another shape, and where memory
    does not suffice.
    """

    def __init__(
        self,
        graph: Graph,
        lent: Mapping[LayerKey, list[ParamArrays]],
        backend: Backend,
        dtype: Any,
        seed: int,
        lending: Lending | None = None,
    ) -> None:
        """lending: lends users the values; None where nobody wants to know when they do not hold them."""
        owned = owned_params(graph, lent)
        lent = _matched(graph, lent)
        with naming_the_largest(graph.nodes, param_elements):
            self.flat = Parameters(owned, backend, dtype)
        self.arrays: dict[tuple[LayerKey, int], ParamArrays] = {}
        for param, segment in zip(owned, self.flat.segments, strict=True):
            data = self.flat.view(self.flat.data, segment)
            backend.write(data, _first_values(graph, param, dtype, seed))
            self.arrays[param.layer, param.index] = ParamArrays(data, self.flat.view(self.flat.grad, segment))
        self.by_layer: dict[LayerKey, list[ParamArrays]] = {}
        self.blobs: dict[LayerKey, list[Blob]] = {}
        for node in graph.nodes:
            for param in node.params:
                self._find_memory(node, param, lent)
                arrays = self.arrays[param.layer, param.index]
                self.by_layer.setdefault(param.layer, []).append(arrays)
                self.blobs.setdefault(param.layer, []).append(_blob(arrays, backend, lending))

    def _find_memory(self, node: Node, param: Param, lent: Mapping[LayerKey, list[ParamArrays]]) -> None:
        """A parameter that is not this layer's own lies in another net's memory, or in its owner's."""
        key = (param.layer, param.index)
        if param.layer in lent:
            self.arrays[key] = borrow(node, param.index, param.shape, lent[param.layer])
        elif param.owner is not param:
            first = self.arrays[param.owner.layer, param.owner.index]
            diff = first.diff.reshape(param.shape) if first.diff is not None else None
            self.arrays[key] = ParamArrays(first.data.reshape(param.shape), diff)

    def check(self, graph: Graph) -> None:
        """After a reshape: the parameters must not have changed shape. Raises NetcError."""
        for node in graph.nodes:
            for param in node.params:
                have = self.arrays[param.layer, param.index].data.shape
                if tuple(have) != param.shape:
                    raise NetcError(
                        f"the new input shapes change parameter {param.index} of a layer",
                        at=node.location,
                        layer=f"{node.name} ({node.type})",
                        expected=list(have),
                        found=list(param.shape),
                        chain=graph.chain_to(node.inputs[0]) if node.inputs else (),
                        remedy="give inputs of one size (resize, crop), or pool globally before the layer",
                    )

    def share(self, graph: Graph, other: Mapping[LayerKey, list[ParamArrays]]) -> bool:
        """From now on uses these values in the layers of the same name; gradients stay this net's own.

        Returns whether anything lies elsewhere now. Raises NetcError where shapes differ; nothing has
        changed then.
        """
        other = _matched(graph, other)
        lent = {
            (param.layer, param.index): borrow(node, param.index, param.shape, other[param.layer])
            for node in graph.nodes
            for param in node.params
            if param.layer in other
        }
        if all(lent[key].data is self.arrays[key].data for key in lent):
            return False
        for param in graph.params():
            key, owner = (param.layer, param.index), (param.owner.layer, param.owner.index)
            if key in lent:
                self.arrays[key].data = lent[key].data
            elif owner in lent:
                self.arrays[key].data = lent[owner].data.reshape(param.shape)
        return True


def owned_params(graph: Graph, lent: Mapping[LayerKey, list[ParamArrays]]) -> list[Param]:
    """The parameters of a graph that are not shared within it, nor taken from what another net lends."""
    lent = _matched(graph, lent)
    return [param for param in graph.params() if param.owner is param and param.layer not in lent]


def _matched(graph: Graph, other: Mapping[LayerKey, list[ParamArrays]]) -> dict[LayerKey, list[ParamArrays]]:
    """Another net's parameters by the layers of a graph that use them."""
    layers = dict.fromkeys(param.layer for param in graph.params())
    return {layer: other[source] for layer, source in counterparts(layers, other).items()}


def _first_values(graph: Graph, param: Param, dtype: Any, seed: int) -> np.ndarray:
    """What a parameter's filler gives. Raises NetcError at the filler's line where it makes no sense."""
    if param.blob.values is not None:
        return np.asarray(param.blob.values, dtype)
    try:
        return fill(
            param.blob.filler,
            param.shape,
            stream(np, seed, part_name(param.layer, param.index), 0),
            dtype,
        )
    except NetcError as error:
        node = next(node for node in graph.nodes if param in node.params)
        error.at = error.at or _place_of(param.blob.filler, node)
        error.layer = f"{node.name} ({node.type})"
        raise


def _place_of(filler: pb.FillerParameter | None, node: Node) -> Location | None:
    """Where a layer's filler stands; of several that say the same, the first."""
    layer = node.layer
    for field, value in layer.options.ListFields() if layer.options_field else ():
        if field.message_type is pb.FillerParameter.DESCRIPTOR and value == filler:
            return layer.locate(layer.options_field, field.name)
    return node.location


def _blob(arrays: ParamArrays, backend: Backend, lending: Lending | None) -> Blob:
    def data() -> np.ndarray:
        return lending.lend(backend.view(arrays.data)) if lending else backend.view(arrays.data)

    def diff() -> np.ndarray | None:
        return None if arrays.diff is None else backend.view(arrays.diff)

    return Blob(data, diff)
