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
from netc.backends.journal import Journal
from netc.backends.loss_scale import LossScale
from netc.errors import NetcError
from netc.graph import Build, Graph, State, build_graph
from netc.layer import Array, Closable, Shape
from netc.passes import run_passes
from netc.proto import netc_pb2 as pb
from netc.runtime import watch
from netc.runtime.blob import Blob, OutputValue
from netc.runtime.callbacks import LayerCallbacks, tell
from netc.runtime.demand import Demand
from netc.runtime.layer_range import nodes_of, places_of
from netc.runtime.lending import Lending
from netc.runtime.param_store import ParamStore
from netc.runtime.parameters import Parameters
from netc.runtime.places import ParamArrays
from netc.runtime.program import Arena, IterationUpdate, Program, Watcher
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
        self._params_seen = False  # as flat arrays, of which nobody is told who holds them
        self._lending = Lending()
        self.loss_scale: Array | None = None
        if self.scales_loss:
            nbytes = 2 * np.dtype(dtype).itemsize
            self.loss_scale = self.backend.allocate(nbytes, "loss scale").view(dtype)
            self.scale_loss(LossScale(1.0))
        self._build = Build(
            State(phase, level, frozenset(stages)), positions, {}, self.sources, self.seed, dtype
        )
        make_graph = partial(_make_graph, definition, self._build)
        try:
            graph = make_graph({})
            lent = share_with._lend() if share_with is not None else {}
            check_room(graph, partial(make_graph, {}), lent, self.demand, self.backend, self.arena, histories)
            lending = self._lending if self.demand.holds else None
            self._store: ParamStore = ParamStore(
                graph, lent, self.backend, self.demand.dtype, self.seed, lending
            )
            self._programs = Programs(
                graph,
                make_graph,
                self._store,
                self.sources,
                self.demand,
                self.backend,
                self.arena,
                None if self.loss_scale is None else self.loss_scale[:1],
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

    def _lend(self) -> Mapping[LayerKey, list[ParamArrays]]:
        """The parameters for another net to use, which may write to them from now on."""
        self._params_seen = True
        return self._store.by_layer

    @property
    def params(self) -> dict[LayerKey, list[Blob]]:
        """The parameters of each layer that has any."""
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

    def scale_loss(self, scale: LossScale) -> None:
        """From now on all gradients are so many times too large; updates move the scale on."""
        self.backend.write(self.loss_scale, np.array([scale.value, scale.held], self.demand.dtype))

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
        return self.forward_layers(*places_of(self.layer_names, start, end))

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
            self._run(0, last)
            self.program.backward()
        return self.program.loss()

    def train(self, update: IterationUpdate, journal: Journal | None = None) -> float | None:
        """One iteration: gradients cleared, a forward and a backward pass over all layers, and an update; the
        loss, from before the update, or None where the journal is to have it.

        Where nobody looks at it in between, all that can be recorded is: one piece of work with a journal,
        one before the loss and one behind it without. The update and the journal are always the same ones.
        """
        if self._is_watched or not self.program.runs_in_one:
            self.clear_param_diffs()
            loss = self.forward_backward()
            self.backend.push()
            with self.backend.active():
                for step in update.steps:
                    step.run()
            return loss
        last = len(self.graph.nodes) - 1
        self._begin(0, last)
        if journal is not None and self.program.fits_journal:
            self.program.train(self._programs.to_clear, update, journal)
            return None
        self._run(0, last)
        loss = self.program.loss()
        self.program.descend(self._programs.to_clear, update)
        return loss

    def _forward(self, first: int, last: int) -> float:
        self._begin(first, last)
        self._run(first, last)
        return self.program.loss(nodes_of(self.graph, first, last))

    def _run(self, first: int, last: int) -> None:
        changed = self._params_seen or self._lending.may_have_changed()
        self._programs.run(first, last, changed, self._watcher)

    @property
    def _is_watched(self) -> bool:
        """Whether a user wants to be told of layers, or the log of what they make."""
        return self.debug_info or bool(self.callbacks.around_forward or self.callbacks.around_backward)

    def _begin(self, first: int, last: int) -> None:
        """What comes before a forward pass: new shapes, what users have written, the next batch."""
        self.reshape()
        self.backend.push()
        self._programs.feed(first, last)
        self.program.watcher = self._watcher

    @property
    def _watcher(self) -> Watcher | None:
        return watch.log_step if self.debug_info else None

    def backward(self, start: str | None = None, end: str | None = None) -> None:
        """One backward pass, over all layers or from `start` down to `end`; parameter gradients are added
        to."""
        self.backward_layers(*places_of(self.layer_names, end, start)[::-1])

    def backward_layers(self, first: int, last: int) -> None:
        """Runs the layers of these indices backward, from `first` down to `last`, both included."""
        if not self.demand.backward:
            raise NetcError("this net was made without gradients", remedy="make it with backward=True")
        self.backend.push()
        self.program.watcher = self._watcher
        if self.callbacks.around_backward:
            for layer in range(first, last - 1, -1):
                self._backward_told(layer)
        else:
            self.program.backward(nodes_of(self.graph, last, first))
        if self.debug_info:
            watch.log_norms(self._store.flat.data, self._store.flat.grad)

    def _backward_told(self, layer: int) -> None:
        node = self.graph.nodes[layer]
        if node.needs_backward:
            tell(self.callbacks.before_backward, layer)
            self.program.backward([node])
            tell(self.callbacks.after_backward, layer)

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
        if self._store.share(self.graph, other._lend()):
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
