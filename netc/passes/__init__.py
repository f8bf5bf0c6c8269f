"""The passes: graph to graph, one small file each, run in the order of one list."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from netc.graph import Graph
from netc.passes.backward_need import mark_backward_need

log = logging.getLogger(__name__)

PIPELINE: tuple[tuple[str, Callable[[Graph], None]], ...] = (("backward_need", mark_backward_need),)


def run_passes(graph: Graph, skip: Collection[str] = ()) -> Graph:
    """Runs every pass that is not skipped, verifying the graph after each; at log level DEBUG each result is
    printed."""
    for name, run in PIPELINE:
        if name not in skip:
            run(graph)
            graph.verify()
            log.debug("after pass %s:\n%s", name, graph)
    return graph
