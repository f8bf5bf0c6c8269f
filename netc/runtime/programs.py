"""The programs of one net, one for each set of input shapes that it has met, and which is in use."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from netc.backends.backend import Backend
from netc.graph import Graph, Node
from netc.layer import Array, Shape, SourceLayer
from netc.runtime.demand import Demand
from netc.runtime.feeding import feeds_of
from netc.runtime.largest import blob_elements, naming_the_largest
from netc.runtime.layer_range import nodes_of
from netc.runtime.layout_choice import choose_layout
from netc.runtime.param_store import ParamStore
from netc.runtime.program import Arena, Program, ShapeChange, Watcher, compile_program
from netc.runtime.states import States
from netc.schema.layer_keys import LayerKey

log = logging.getLogger(__name__)

# Of tops, by the layer's place in the net.
Shapes = Mapping[int, tuple[Shape, ...]]
KEPT = 16  # compiled programs of other input shapes that stay at hand


class Programs:
    """Compiles a net's graph for every set of shapes that it meets, and turns from one program to another.

    graph: that of the shapes to begin with; make_graph: the graph of other ones; sources: the batches of data
    layers; loss_scale: as in `compile_program`. current: the program in use; states: what layers keep from
    one pass to the next, whichever program runs. Raises NetcError.
    """

    def __init__(
        self,
        graph: Graph,
        make_graph: Callable[[Shapes], Graph],
        store: ParamStore,
        sources: Mapping[LayerKey, Any],
        demand: Demand,
        backend: Backend,
        arena: Arena,
        loss_scale: Array | None = None,
    ) -> None:
        self._make_graph = make_graph
        self._store, self._sources = store, sources
        self.demand, self.backend, self.arena = demand, backend, arena
        self._loss_scale = loss_scale
        self.states = States()
        self._compiled: OrderedDict[frozenset[Any], Program] = OrderedDict()
        self._reshaped: dict[str, Array] = {}  # inputs given another shape that no program has taken yet
        shapes = fed_shapes(graph)
        self._use(self._compile(graph, shapes), shapes)

    def _use(self, program: Program, shapes: Shapes) -> None:
        """From now on runs this program, of these shapes."""
        self.current, self._shapes = program, shapes
        self._feeds = feeds_of(program, self._sources)
        # Gradients of parameters that are zeros before a forward pass.
        self.to_clear = program.gradients_to_clear() if self.demand.fresh else [self._store.flat.grad]
        self.unprepared = True

    def _compile(self, graph: Graph, shapes: Shapes) -> Program:
        self.states.fit(graph, self.backend, self.demand.dtype)
        with naming_the_largest(graph.nodes, blob_elements):
            layout = choose_layout(lambda: self._make_graph(shapes), self.demand, self.backend)
            program = compile_program(
                graph,
                self.demand,
                self.backend,
                self.arena,
                self._store.arrays,
                self.states,
                layout,
                self._loss_scale,
            )
        log.info("Program of net %r: %s", graph.name, program.plan)
        self._compiled[frozenset(shapes.items())] = program
        while len(self._compiled) > KEPT:
            self._compiled.popitem(last=False)
        return program

    def compile_anew(self) -> None:
        """After parameters have come to lie elsewhere: drops all programs and makes the current one again."""
        blobs = self.current.memory
        self._compiled.clear()
        # Where layouts are chosen, reorders have been put between the nodes of the current graph.
        graph = self.current.graph if self.demand.keep_all else self._make_graph(self._shapes)
        self._use(self._compile(graph, self._shapes), self._shapes)
        self.current.memory[...] = blobs[: len(self.current.memory)]

    def run(self, first: int, last: int, changed: bool, watcher: Watcher | None) -> None:
        """Runs the layers of these indices forward, through every change of shapes.

        changed: whether parameters may have, since the program in use last took them in.
        """
        self.unprepared |= changed
        begin, settled = first, None
        while change := self._run(begin, last, settled, watcher):
            settled = self._follow(change)
            begin = self.current.graph.nodes.index(settled)

    def _run(
        self, first: int, last: int, settled: Node | None, watcher: Watcher | None
    ) -> ShapeChange | None:
        program = self.current
        if self.unprepared:
            program.prepare()
            self.unprepared = False
        program.watcher = watcher
        return program.forward(nodes_of(program.graph, first, last), settled)

    def feed(self, first: int, last: int) -> None:
        """Pulls the next batch into the tops of every data source among the layers of these indices; a batch
        of other shapes turns to their program."""
        feeding = [feed for feed in self._feeds if first <= feed.place <= last]
        if any(not feed.fits for feed in feeding):
            self._change({feed.place: feed.coming for feed in feeding}, first)
            feeding = [feed for feed in self._feeds if first <= feed.place <= last]
        for feed in feeding:
            feed.pull(self.backend)

    def _follow(self, change: ShapeChange) -> Node:
        """Turns to the program in which a node has the shapes it turned out to have; the node there."""
        step = self.current.graph.nodes.index(change.node)
        self._change({step: change.shapes}, step)
        return self.current.graph.nodes[step]

    def _change(self, shapes: Shapes, step: int) -> None:
        """Turns to the program in which some layers' tops have these shapes, before this step of a forward
        pass: what has run stays as it is."""
        old = self.current
        settled = {
            place: tuple(value.shape for value in node.outputs)
            for place, node in enumerate(old.graph.nodes[:step])
            if node.layer.shapes_by_value
        }
        self._turn_to({**fed_shapes(old.graph), **settled, **shapes})
        self.current.take_over(old, step)

    def _turn_to(self, shapes: Shapes) -> None:
        """Makes the program of these shapes the one in use: of the inputs, and of layers whose shapes hang on
        values."""
        program = self._compiled.get(frozenset(shapes.items()))
        if program is None:
            graph = self._make_graph(shapes)
            self._store.check(graph)
            program = self._compile(graph, shapes)
        self._compiled.move_to_end(frozenset(shapes.items()))
        self.states.fit(program.graph, self.backend, self.demand.dtype)
        self._use(program, shapes)

    def reshape_input(self, blob: str, shape: Shape) -> None:
        """Gives an input another shape, and zeros; the rest follows at the next `reshape`."""
        self._reshaped[blob] = np.zeros(shape, self.demand.dtype)

    def reshape(self) -> None:
        """Turns to the program of the inputs that have been reshaped since; inputs keep what they hold.

        Raises NetcError where some layer cannot take the new shapes; the old ones then stay.
        """
        if not self._reshaped:
            return
        reshaped, self._reshaped = self._reshaped, {}
        nodes = fed_nodes(self.current.graph)
        old = {
            value.name: self.backend.view(self.current.data(value))
            for node in nodes.values()
            for value in node.outputs
        }
        self._turn_to(
            {
                place: tuple(reshaped[v.name].shape if v.name in reshaped else v.shape for v in node.outputs)
                for place, node in nodes.items()
            }
        )
        for name, data in {**old, **reshaped}.items():
            self.backend.write(self.current.data(self.current.last_value(name)), data)

    def data(self, blob: str) -> Array:
        """What a blob holds, as its user reads and writes it."""
        if blob in self._reshaped:
            return self._reshaped[blob]
        return self.backend.view(self.current.data(self.current.last_value(blob)))

    def diff(self, blob: str) -> Array | None:
        """A blob's gradient, as its user reads and writes it; None where none is computed."""
        if blob in self._reshaped:
            return None
        gradient = self.current.diff(self.current.last_value(blob))
        return None if gradient is None else self.backend.view(gradient)


def fed_nodes(graph: Graph) -> dict[int, Node]:
    """The nodes whose tops come from outside, by place: data sources', and the user's inputs."""
    return {
        place: node
        for place, node in enumerate(graph.nodes)
        if isinstance(node.layer, SourceLayer) or node.type == "Input"
    }


def fed_shapes(graph: Graph) -> dict[int, tuple[Shape, ...]]:
    """The shapes of what comes from outside."""
    return {place: tuple(value.shape for value in node.outputs) for place, node in fed_nodes(graph).items()}
