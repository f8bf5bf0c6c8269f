"""A net that runs: programs over shared parameters, one for each set of input shapes met."""

from __future__ import annotations

import logging
import os
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netc.backends.backend import Backend
from netc.backends.cpu import CpuBackend
from netc.errors import NetcError
from netc.graph import Build, Graph, Node, State, Value, build_graph
from netc.layer import Array, Closable, Shape, SourceLayer
from netc.passes import run_passes
from netc.proto import netc_pb2 as pb
from netc.runtime import watch
from netc.runtime.blob import Blob
from netc.runtime.callbacks import LayerCallbacks, tell
from netc.runtime.feeding import feeds_of
from netc.runtime.largest import blob_elements, naming_the_largest
from netc.runtime.layout_choice import choose_layout
from netc.runtime.param_store import ParamStore
from netc.runtime.parameters import Parameters
from netc.runtime.program import Arena, Demand, Program, ShapeChange, compile_program
from netc.runtime.room import check_room
from netc.runtime.states import States
from netc.runtime.transfer import Source, take_weights
from netc.schema.layer_keys import LayerKey
from netc.schema.net import current_net, read_net
from netc.schema.positions import Positions
from netc.schema.weights import open_weights, write_weights

log = logging.getLogger(__name__)

# Of tops, by the layer's place in the net.
Shapes = Mapping[int, tuple[Shape, ...]]
PROGRAMS_KEPT = 16  # compiled programs of other input shapes that stay at hand


@dataclass(frozen=True)
class OutputValue:
    """One output blob after a forward pass, and its weight in the loss (0: a figure, not a loss)."""

    name: str
    data: Array
    loss_weight: float


class Net:
    """A net in one phase.

    definition: a prototxt's path or its message. level, stages: the rest of the state that include and
    exclude rules ask for. weights: a weights file, or several. share_with: a net whose parameters this one
    uses where layer names agree. keep: "all" leaves every blob readable after a pass, "outputs" only the
    outputs and losses, in much less memory. backward: whether gradients will be asked for. seed: of fillers,
    dropout and data; None: from the operating system. backend: where and how it computes, by default as
    `share_with` does, or on the CPU. fresh: a backward pass may give the parameters' gradients anew, which
    spares clearing them, rather than add to them. histories: arrays as large as all parameters that a solver
    will ask for; they count where it is checked beforehand whether the net fits into memory. Raises
    NetcError.
    """

    def __init__(
        self,
        definition: str | os.PathLike[str] | pb.NetParameter,
        phase: int = pb.TEST,
        *,
        level: int = 0,
        stages: Sequence[str] = (),
        weights: str | Sequence[str] | None = None,
        share_with: Net | None = None,
        keep: str = "all",
        backward: bool = True,
        seed: int | None = None,
        dtype: Any = np.float32,
        positions: Positions | None = None,
        arena: Arena | None = None,
        poison: bool = False,
        backend: Backend | None = None,
        fresh: bool = False,
        histories: int = 0,
    ) -> None:
        if not isinstance(definition, pb.NetParameter):
            parsed = read_net(os.fspath(definition))
            definition, positions = parsed.message, parsed.positions
        definition = current_net(definition)
        self.seed = secrets.randbits(63) if seed is None else seed
        self.backend: Backend = backend or (share_with.backend if share_with is not None else CpuBackend())
        self.arena = arena or Arena(self.backend)
        self.demand = Demand(
            backward=backward,
            fresh=fresh and self.backend.gives_fresh,
            holds=not backward and keep != "all" and share_with is None,
            keep_all=keep == "all",
            poison=poison,
            dtype=np.dtype(dtype).type,
        )
        self.sources: dict[LayerKey, Any] = {}
        self.states = States()
        self._params_seen = self._unprepared = False
        self._loss_scale: Array | None = None
        if self.scales_loss:
            self._loss_scale = self.backend.allocate(self.demand.dtype().itemsize, "loss scale").view(dtype)
            self.scale_loss(1.0)
        self._reshaped: dict[str, Array] = {}  # inputs given another shape that the net has not taken yet
        self._source_message = definition
        self._build = Build(
            State(phase, level, frozenset(stages)), positions, {}, self.sources, self.seed, dtype
        )
        self._programs: OrderedDict[frozenset[Any], Program] = OrderedDict()
        try:
            graph = self._graph({})
            lent = share_with._store.by_layer if share_with is not None else {}
            check_room(graph, lent, self.demand, self.backend, self.arena, histories)
            self._store: ParamStore = ParamStore(graph, lent, self.backend, self.demand.dtype, self.seed)
            shapes = _fed_shapes(graph)
            self._use(self._compile(graph, shapes), shapes)
        except BaseException:
            self.close()
            raise
        self.debug_info: bool = definition.debug_info
        self.callbacks = LayerCallbacks()
        self.blobs = self._make_blobs()
        watch.log_graph(graph)
        for path in [weights] if isinstance(weights, str) else weights or ():
            self.load_weights(path)

    @property
    def params(self) -> dict[LayerKey, list[Blob]]:
        """The parameters of each layer that has any."""
        self._params_seen = True
        return self._store.blobs

    @property
    def parameters(self) -> Parameters:
        """The parameters that the net owns, as flat arrays."""
        self._params_seen = True
        return self._store.flat

    @property
    def scales_loss(self) -> bool:
        """Whether gradients can be scaled, as the math of the backend needs it where gradients are small."""
        return (
            self.demand.backward
            and not self.demand.keep_all
            and self.backend.math in self.backend.scaled_maths
        )

    def scale_loss(self, scale: float) -> None:
        """From now on all gradients are `scale` times too large."""
        self.backend.write(self._loss_scale, np.full(1, scale, self.demand.dtype))

    @property
    def name(self) -> str:
        return self.graph.name

    @property
    def phase(self) -> int:
        return self.graph.phase

    @property
    def graph(self) -> Graph:
        """The graph of the shapes in use."""
        return self._program.graph

    @property
    def program(self) -> Program:
        """The program of the shapes in use."""
        return self._program

    @property
    def definition(self) -> pb.NetParameter:
        """The net's message: the layers of this state, without split layers."""
        return self.graph.definition

    @property
    def layer_names(self) -> list[str]:
        return [node.name for node in self.graph.nodes]

    @property
    def layer_types(self) -> list[str]:
        return [node.type for node in self.graph.nodes]

    @property
    def blob_names(self) -> list[str]:
        return self.graph.blob_names()

    @property
    def inputs(self) -> list[str]:
        """The tops of Input layers."""
        return [value.name for node in self.graph.nodes if node.type == "Input" for value in node.outputs]

    @property
    def outputs(self) -> list[str]:
        """The blobs that no layer reads, by name."""
        return [value.name for value in self.graph.outputs]

    def forward(self, start: str | None = None, end: str | None = None) -> float:
        """One forward pass, over all layers or from `start` to `end`, both included; the loss of what ran."""
        return self.forward_layers(*self._range(start, end))

    def forward_layers(self, first: int, last: int) -> float:
        """Runs the layers of these indices, both included; the loss of what ran."""
        if self.callbacks.around_forward:
            return sum(self._forward_told(layer) for layer in range(first, last + 1))
        return self._forward(first, last)

    def _forward_told(self, layer: int) -> float:
        tell(self.callbacks.before_forward, layer)
        loss = self._forward(layer, layer)
        tell(self.callbacks.after_forward, layer)
        return loss

    def forward_backward(self) -> float:
        """One forward and one backward pass over all layers; the loss."""
        last = len(self.graph.nodes) - 1
        if self._is_watched or not self.demand.backward:
            loss = self.forward_layers(0, last)
            self.backward()
            return loss
        self._begin(0, last)
        if self._program.runs_in_one:
            self._program.forward_backward()
        else:
            self._run_from(0, last)
            self._program.backward()
        return self._program.loss()

    def _forward(self, first: int, last: int) -> float:
        self._run_layers(first, last)
        return self._program.loss(self._chosen(first, last))

    @property
    def _is_watched(self) -> bool:
        """Whether a user wants to be told of layers, or the log of what they make."""
        return self.debug_info or bool(self.callbacks.around_forward or self.callbacks.around_backward)

    def _run_layers(self, first: int, last: int) -> None:
        """One forward pass over the layers of these indices, through every change of shapes."""
        self._begin(first, last)
        self._run_from(first, last)

    def _begin(self, first: int, last: int) -> None:
        """What comes before a forward pass: new shapes, what users have written, the next batch."""
        self.reshape()
        self.backend.push()
        self._feed(first, last)
        self._program.watcher = watch.log_step if self.debug_info else None

    def _run_from(self, first: int, last: int) -> None:
        begin, settled = first, None
        while change := self._run_forward(begin, last, settled):
            settled = self._follow(change)
            begin = self.graph.nodes.index(settled)

    def _run_forward(self, first: int, last: int, settled: Node | None) -> ShapeChange | None:
        self._prepare()
        self._program.watcher = watch.log_step if self.debug_info else None
        return self._program.forward(self._chosen(first, last), settled)

    def _follow(self, change: ShapeChange) -> Node:
        """Turns to the program in which a node has the shapes it turned out to have; the node there."""
        step = self.graph.nodes.index(change.node)
        self._change_program({step: change.shapes}, step)
        return self.graph.nodes[step]

    def _change_program(self, shapes: Shapes, step: int) -> None:
        """Turns to the program in which some layers' tops have these shapes, before this step of a forward
        pass: what has run stays as it is."""
        old = self._program
        settled = {
            place: tuple(value.shape for value in node.outputs)
            for place, node in enumerate(self.graph.nodes[:step])
            if node.layer.shapes_by_value
        }
        self._switch({**_fed_shapes(self.graph), **settled, **shapes})
        self._program.take_over(old, step)

    def backward(self, start: str | None = None, end: str | None = None) -> None:
        """One backward pass, over all layers or from `start` down to `end`; parameter gradients are added
        to."""
        self.backward_layers(*self._range(end, start)[::-1])

    def backward_layers(self, first: int, last: int) -> None:
        """Runs the layers of these indices backward, from `first` down to `last`, both included."""
        if not self.demand.backward:
            raise NetcError("this net was made without gradients", remedy="make it with backward=True")
        self.backend.push()
        self._program.watcher = watch.log_step if self.debug_info else None
        if self.callbacks.around_backward:
            for layer in range(first, last - 1, -1):
                self._backward_told(layer)
        else:
            self._program.backward(self._chosen(last, first))
        if self.debug_info:
            watch.log_norms(self._store.flat.data, self._store.flat.grad)

    def _backward_told(self, layer: int) -> None:
        node = self.graph.nodes[layer]
        if node.needs_backward:
            tell(self.callbacks.before_backward, layer)
            self._program.backward([node])
            tell(self.callbacks.after_backward, layer)

    def _range(self, first: str | None, last: str | None) -> tuple[int, int]:
        """The indices of two layers, by default the net's first and last."""
        names = self.layer_names
        for name in (first, last):
            if name is not None and name not in names:
                raise NetcError(f"the net has no layer {name!r}", expected=", ".join(names))
        begin = names.index(first) if first is not None else 0
        end = len(names) - 1 - names[::-1].index(last) if last is not None else len(names) - 1
        return begin, end

    def _chosen(self, first: int, last: int) -> list[Node] | None:
        """The nodes of a range of indices; None for all of them."""
        whole = first == 0 and last == len(self.graph.nodes) - 1
        return None if whole else self.graph.nodes[first : last + 1]

    def clear_param_diffs(self) -> None:
        """Sets the gradients of all parameters to zero, where a backward pass would add to them."""
        if not self.demand.fresh:
            self._store.flat.grad.fill(0)
        for gradient in self._uncleared:
            gradient.fill(0)

    def output_values(self) -> list[OutputValue]:
        """The outputs of the last forward pass."""
        return [
            OutputValue(value.name, self.backend.read(self._program.data(value)), value.loss_weight)
            for value in self.graph.outputs
        ]

    def close(self) -> None:
        """Closes the data sources, and the files that layers write."""
        for source in self.sources.values():
            source.close()
        for kept in self._build.kept.values():
            for item in kept.values():
                if isinstance(item, Closable):
                    item.close()

    def reshape(self) -> None:
        """Brings every blob to the shapes that follow from inputs reshaped since; `forward` does so by
        itself.

        Raises NetcError where some layer cannot take the new shapes; the net then keeps its old ones.
        """
        if not self._reshaped:
            return
        reshaped, self._reshaped = self._reshaped, {}
        old = {
            value.name: self.backend.view(self._program.data(value))
            for node in _fed(self.graph).values()
            for value in node.outputs
        }
        self._switch(
            {
                place: tuple(reshaped[v.name].shape if v.name in reshaped else v.shape for v in node.outputs)
                for place, node in _fed(self.graph).items()
            }
        )
        for name, data in {**old, **reshaped}.items():
            self.backend.write(self._program.data(self._program.last_value(name)), data)

    def reshape_input(self, blob: str, shape: Shape) -> None:
        """Gives the top of an Input layer another shape; the blobs behind it follow at the next `reshape` or
        `forward`."""
        if blob not in self.inputs:
            raise NetcError(
                "only the net's inputs can be reshaped",
                blob=blob,
                expected=", ".join(self.inputs),
                found=blob,
            )
        self._reshaped[blob] = np.zeros(shape, self.demand.dtype)

    def _switch(self, shapes: Shapes) -> None:
        """Makes the program of these shapes the one in use: of the inputs, and of layers whose shapes hang on
        values."""
        program = self._programs.get(frozenset(shapes.items()))
        if program is None:
            graph = self._graph(shapes)
            self._store.check(graph)
            program = self._compile(graph, shapes)
        self._programs.move_to_end(frozenset(shapes.items()))
        self.states.fit(program.graph, self.backend, self.demand.dtype)
        self._use(program, shapes)

    def _prepare(self) -> None:
        """Lets the program take in changed parameters: before the first pass, and before every one from the
        moment on that a user has them in hand."""
        if self._unprepared or self._params_seen:
            self._program.prepare()
            self._unprepared = False

    def _use(self, program: Program, shapes: Shapes) -> None:
        """From now on runs this program, of these shapes."""
        self._program, self._shapes = program, shapes
        self._feeds = feeds_of(program, self.sources)
        self._uncleared = program.gradients_to_clear()
        self._unprepared = True

    def _graph(self, shapes: Shapes) -> Graph:
        self._build.shapes = shapes
        return run_passes(build_graph(self._source_message, self._build))

    def _compile(self, graph: Graph, shapes: Shapes) -> Program:
        self.states.fit(graph, self.backend, self.demand.dtype)
        with naming_the_largest(graph.nodes, blob_elements):
            layout = choose_layout(lambda: self._graph(shapes), self.demand, self.backend)
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
        self._programs[frozenset(shapes.items())] = program
        while len(self._programs) > PROGRAMS_KEPT:
            self._programs.popitem(last=False)
        return program

    def _feed(self, first: int, last: int) -> None:
        """Pulls the next batch into the tops of every data source among the layers of these indices."""
        feeding = [feed for feed in self._feeds if first <= feed.place <= last]
        if any(not feed.fits for feed in feeding):
            self._change_program({feed.place: feed.coming for feed in feeding}, first)
            feeding = [feed for feed in self._feeds if first <= feed.place <= last]
        for feed in feeding:
            feed.pull(self.backend)

    def share_params(self, other: Net) -> None:
        """From now on uses the values of another net's parameters, in the layers of the same name.

        Gradients stay each net's own. Raises NetcError where shapes differ; nothing has changed then.
        """
        self._params_seen = True
        if not self._store.share(self.graph, other._store.by_layer):
            return
        blobs = self._program.memory
        self._programs.clear()
        self._use(self._compile(self.graph, self._shapes), self._shapes)
        self._program.memory[...] = blobs[: len(self._program.memory)]

    def weights(self) -> dict[LayerKey, list[np.ndarray]]:
        """Copies of no data: views of every layer's parameters, by layer."""
        return {layer: [blob.data for blob in blobs] for layer, blobs in self._store.blobs.items()}

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Takes the parameters of the layers that a weights file names as this net does."""
        with open_weights(path) as weights:
            self.load_weights_from(weights, os.fspath(path))

    def load_weights_from(
        self, weights: Mapping[LayerKey, Sequence[Source]], origin: str = "the weights"
    ) -> None:
        """Takes parameters by layer name; logs every difference. Raises NetcError where shapes disagree."""
        owned: dict[LayerKey, list[bool]] = {}
        for param in self.graph.params():
            owned.setdefault(param.layer, []).append(param.owner is param)
        self._unprepared = True
        take_weights(self._store.blobs, owned, self.layer_names, weights, origin)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the parameters: HDF5 where the name ends in .h5, else a .caffemodel."""
        write_weights(os.fspath(path), self.definition, self.weights())

    def _make_blobs(self) -> dict[str, Blob]:
        return {name: self._blob(name) for name in self.blob_names}

    def _blob(self, name: str) -> Blob:
        def value() -> Value:
            return self._program.last_value(name)

        def view(array: Array | None) -> Array | None:
            return None if array is None else self.backend.view(array)

        return Blob(
            lambda: self._reshaped[name] if name in self._reshaped else view(self._program.data(value())),
            lambda: None if name in self._reshaped else view(self._program.diff(value())),
            lambda shape: self.reshape_input(name, shape),
        )


def _fed(graph: Graph) -> dict[int, Node]:
    """The nodes whose tops come from outside, by place: data sources', and the user's inputs."""
    return {
        place: node
        for place, node in enumerate(graph.nodes)
        if isinstance(node.layer, SourceLayer) or node.type == "Input"
    }


def _fed_shapes(graph: Graph) -> dict[int, tuple[Shape, ...]]:
    """The shapes of what comes from outside."""
    return {place: tuple(value.shape for value in node.outputs) for place, node in _fed(graph).items()}
