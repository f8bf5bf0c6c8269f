"""What layers keep from one pass to the next: draw counters, recurrent states."""

from __future__ import annotations

from typing import Any

import numpy as np

from netc.backends.backend import Backend
from netc.graph import Graph, Node
from netc.layer import Array, Shape
from netc.layer.base import count
from netc.schema.layer_keys import layer_keys, part_name


def state_names(graph: Graph) -> dict[Node, dict[str, str]]:
    """The names that the states of a graph have in the net, by node and by their names in the layer.

    "layer/state"; of the second layer with states that is called so, "layer/state#2".
    """
    nodes = [node for node in graph.nodes if node.layer.states]
    keys = layer_keys(node.name for node in nodes)
    return {
        node: {name: part_name(key, name) for name in node.layer.states}
        for node, key in zip(nodes, keys, strict=True)
    }


class States(dict[str, Array]):
    """Arrays by the names that `state_names` gives; snapshots keep them.

    The array of a state and a shape is always the same one, because programs are bound to it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._arrays: dict[tuple[str, Shape], Array] = {}

    def fit(self, graph: Graph, backend: Backend, dtype: Any) -> None:
        """Makes the states that a graph's layers ask for; those of another shape begin anew, as zeros."""
        for node, names in state_names(graph).items():
            for name, key in names.items():
                scratch = node.layer.states[name]
                if key not in self or self[key].shape != scratch.shape:
                    self[key] = self._begin(key, scratch.shape, scratch.dtype or dtype, backend)

    def _begin(self, key: str, shape: Shape, dtype: Any, backend: Backend) -> Array:
        array = self._arrays.get((key, shape))
        if array is None:
            nbytes = count(shape) * np.dtype(dtype).itemsize
            array = backend.array(backend.allocate(nbytes, key), 0, shape, dtype)
            self._arrays[key, shape] = array
        with backend.active():
            array.fill(0)
        return array
