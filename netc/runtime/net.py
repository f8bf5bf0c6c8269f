"""A net that runs: its graph, its parameters, the programs over them, and what they are fed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from netc.backends.backend import Backend
from netc.backends.cpu import CpuBackend
from netc.backends.step import Step
from netc.errors import NetcError
from netc.graph import Build, Graph, Node, State, build_graph
from netc.layer import Array, Closable, Shape
from netc.passes import run_passes
from netc.proto import netc_pb2 as pb
from netc.runtime import watch
from netc.runtime.blob import Blob, OutputValue
from netc.runtime.callbacks import LayerCallbacks, tell
from netc.runtime.demand import Demand
from netc.runtime.param_store import ParamStore
from netc.runtime.parameters import Parameters
from netc.runtime.program import Arena, Program, ShapeChange
from netc.runtime.programs import Programs, Shapes
from netc.runtime.room import check_room
from netc.runtime.states import States
from netc.runtime.transfer import Source, take_weights
from netc.schema.layer_keys import LayerKey
from netc.schema.net import current_net, read_net
from netc.schema.positions import Positions
from netc.schema.weights import open_weights, write_weights


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
        self._params_seen = False
        self.loss_scale: Array | None = None
        if self.scales_loss:
            self.loss_scale = self.backend.allocate(self.demand.dtype().itemsize, "loss scale").view(dtype)
            self.scale_loss(1.0)
        self._build = Build(
            State(phase, level, frozenset(stages)), positions, {}, self.sources, self.seed, dtype
        )
        make_graph = partial(_make_graph, definition, self._build)
        try:
            graph = make_graph({})
            lent = share_with._store.by_layer if share_with is not None else {}
            check_room(graph, partial(make_graph, {}), lent, self.demand, self.backend, self.arena, histories)
            self._store: ParamStore = ParamStore(graph, lent, self.backend, self.demand.dtype, self.seed)
            self._programs = Programs(
                graph,
                make_graph,
                self._store,
                self.sources,
                self.demand,
                self.backend,
                self.arena,
                self.loss_scale,
            )
        except BaseException:
            self.close()
            raise
        self.debug_info: bool = definition.debug_info
        self.callbacks = LayerCallbacks()
        data, diff, reshape = self._programs.data, self._programs.diff, self.reshape_input
        self.blobs = {
            name: Blob(partial(data, name), partial(diff, name), partial(reshape, name))
            for name in self.blob_names
        }
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
        is_narrow = self.backend.math in self.backend.scaled_maths
        return is_narrow and self.demand.backward and not self.demand.keep_all

    def scale_loss(self, scale: float) -> None:
        """From now on all gradients are `scale` times too large."""
        self.backend.write(self.loss_scale, np.full(1, scale, self.demand.dtype))

    @property
    def name(self) -> str:
        return self.graph.name

    @property
    def phase(self) -> int:
        return self.graph.phase

    @property
    def graph(self) -> Graph:
        """The graph of the shapes in use."""
        return self._programs.current.graph

    @property
    def program(self) -> Program:
        """The program of the shapes in use."""
        return self._programs.current

    @property
    def states(self) -> States:
        """What layers keep from one pass to the next."""
        return self._programs.states

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
        if self.program.runs_in_one:
            self.program.forward_backward()
        else:
            self._run_from(0, last)
            self.program.backward()
        return self.program.loss()

    def train(self, update: Sequence[Step]) -> float:
        """One iteration: gradients cleared, a forward and a backward pass over all layers, and an update; the
        loss, from before the update.

        Where nobody looks at it in between, all that can be recorded is: one piece of work in most nets.
        update: steps that may be recorded, always the same ones.
        """
        if self._is_watched or not self.program.runs_in_one:
            self.clear_param_diffs()
            loss = self.forward_backward()
            self.backend.push()
            with self.backend.active():
                for step in update:
                    step.run()
            return loss
        self._begin(0, len(self.graph.nodes) - 1)
        self.program.train(self._programs.to_clear, update)
        return self.program.loss()

    def _forward(self, first: int, last: int) -> float:
        self._begin(first, last)
        self._run_from(first, last)
        return self.program.loss(self._chosen(first, last))

    @property
    def _is_watched(self) -> bool:
        """Whether a user wants to be told of layers, or the log of what they make."""
        return self.debug_info or bool(self.callbacks.around_forward or self.callbacks.around_backward)

    def _begin(self, first: int, last: int) -> None:
        """What comes before a forward pass: new shapes, what users have written, the next batch."""
        self.reshape()
        self.backend.push()
        self._programs.feed(first, last)
        self.program.watcher = watch.log_step if self.debug_info else None

    def _run_from(self, first: int, last: int) -> None:
        """Runs the layers of these indices forward, through every change of shapes."""
        begin, settled = first, None
        while change := self._run_forward(begin, last, settled):
            settled = self._programs.follow(change)
            begin = self.graph.nodes.index(settled)

    def _run_forward(self, first: int, last: int, settled: Node | None) -> ShapeChange | None:
        self._programs.prepare(self._params_seen)
        self.program.watcher = watch.log_step if self.debug_info else None
        return self.program.forward(self._chosen(first, last), settled)

    def backward(self, start: str | None = None, end: str | None = None) -> None:
        """One backward pass, over all layers or from `start` down to `end`; parameter gradients are added
        to."""
        self.backward_layers(*self._range(end, start)[::-1])

    def backward_layers(self, first: int, last: int) -> None:
        """Runs the layers of these indices backward, from `first` down to `last`, both included."""
        if not self.demand.backward:
            raise NetcError("this net was made without gradients", remedy="make it with backward=True")
        self.backend.push()
        self.program.watcher = watch.log_step if self.debug_info else None
        if self.callbacks.around_backward:
            for layer in range(first, last - 1, -1):
                self._backward_told(layer)
        else:
            self.program.backward(self._chosen(last, first))
        if self.debug_info:
            watch.log_norms(self._store.flat.data, self._store.flat.grad)

    def _backward_told(self, layer: int) -> None:
        node = self.graph.nodes[layer]
        if node.needs_backward:
            tell(self.callbacks.before_backward, layer)
            self.program.backward([node])
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
        with self.backend.active():
            for gradient in self._programs.to_clear:
                gradient.fill(0)

    def output_values(self) -> list[OutputValue]:
        """The outputs of the last forward pass. Raises NetcError where one is not a number and a layer has
        found out why."""
        values = [
            OutputValue(value.name, self.backend.read(self.program.data(value)), value.loss_weight)
            for value in self.graph.outputs
        ]
        if any(np.isnan(value.data).any() for value in values):
            self.program.complain()
        return values

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
        self._programs.reshape()

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
        self._programs.reshape_input(blob, shape)

    def share_params(self, other: Net) -> None:
        """From now on uses the values of another net's parameters, in the layers of the same name.

        Gradients stay each net's own. Raises NetcError where shapes differ; nothing has changed then.
        """
        self._params_seen = True
        if self._store.share(self.graph, other._store.by_layer):
            self._programs.compile_anew()

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
        self._programs.unprepared = True
        take_weights(self._store.blobs, owned, self.layer_names, weights, origin)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the parameters: HDF5 where the name ends in .h5, else a .caffemodel."""
        write_weights(os.fspath(path), self.definition, self.weights())


def _make_graph(definition: pb.NetParameter, build: Build, shapes: Shapes) -> Graph:
    """The graph of a net whose inputs, and layers of shapes by value, have these shapes."""
    build.shapes = shapes
    return run_passes(build_graph(definition, build))
