"""Whether a net as a whole fits into the free memory of where it will run, said before any of it is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from netc.backends.backend import Backend
from netc.errors import NetcError
from netc.graph import Graph
from netc.layer.base import count
from netc.runtime.demand import Demand
from netc.runtime.largest import blob_elements, naming_the_largest, param_elements
from netc.runtime.param_store import owned_params
from netc.runtime.parameters import flat_elements
from netc.runtime.places import ParamArrays
from netc.runtime.program import Arena, plan_program
from netc.schema.layer_keys import LayerKey

PARAMETERS_AND_GRADIENTS = 2


def check_room(
    graph: Graph,
    make_graph: Callable[[], Graph],
    lent: Mapping[LayerKey, list[ParamArrays]],
    demand: Demand,
    backend: Backend,
    arena: Arena,
    histories: int = 0,
) -> None:
    """Adds up parameters, gradients, a solver's `histories` of the same size, states and blobs.

    make_graph: the same graph anew, because planning it lays its values out. Raises NetcError where the blobs
    do not fit into the backend's memory limit and, at the place of the layer that takes the most, where less
    is free. Where nobody knows what is free, as on a CPU that pages, memory is refused when it is asked for.
    """
    free = backend.free_bytes()
    if free is None and backend.memory_limit is None:
        return
    blobs = _least_bytes(make_graph, demand, backend)
    if free is None:
        return
    itemsize = np.dtype(demand.dtype).itemsize
    planned = (PARAMETERS_AND_GRADIENTS + histories) * flat_elements(owned_params(graph, lent)) * itemsize
    for node in graph.nodes:
        for scratch in node.layer.states.values():
            planned += count(scratch.shape) * np.dtype(scratch.dtype or demand.dtype).itemsize
    if demand.keep_all or blobs > len(arena.memory):
        planned += blobs
    if planned > free:
        with naming_the_largest(graph.nodes, lambda node: blob_elements(node) + param_elements(node)):
            raise backend.out_of_memory(planned, free)


def _least_bytes(make_graph: Callable[[], Graph], demand: Demand, backend: Backend) -> int:
    """The arena of the first of the backend's layouts that keeps to the memory limit."""
    refused: NetcError | None = None
    for layout in backend.layouts(demand.keep_all):
        graph = make_graph()
        try:
            with naming_the_largest(graph.nodes, blob_elements):
                return plan_program(graph, demand, backend, layout)[1].arena_bytes
        except NetcError as error:
            refused = refused or error
    assert refused is not None, "a backend has a layout"
    raise refused
