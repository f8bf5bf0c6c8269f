"""From a net's message to its graph: layers chosen by state, wired, their shapes inferred, all errors
gathered."""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from netc.errors import Location, NetcError, raise_errors
from netc.graph.graph import Graph, Node, Param, Value
from netc.graph.rules import State, included
from netc.graph.splits import PlacedLayer, insert_splits
from netc.graph.unread_options import warn_of_unread_options
from netc.layer import Layer, Shape, SourceLayer, layer_class
from netc.layer.random import MASK_64
from netc.layer.size import check_size
from netc.proto import netc_pb2 as pb
from netc.schema.layer_keys import LayerKey, nth_key
from netc.schema.positions import Positions

log = logging.getLogger(__name__)

UNNAMED = "(automatic)"  # a loss whose top the prototxt leaves out: it counts, but is no output, as in Caffe
SEED_STEP = 0x9E3779B97F4A7C15  # between the seeds of layers of one name: far from any two that runs use


@dataclass
class Build:
    """What a graph is built for, beside its message.

    shapes: shapes of tops that differ from what their layers say (a reshape, a data source's next batch,
    shapes that hang on values), by the layer's place in the net; those of layers without bottoms also by
    layer; sources: open data sources by layer, filled as layers open theirs; kept: what layers keep from one
    graph to the next, by their place in the net.
    """

    state: State
    positions: Positions | None = None
    shapes: Mapping[Any, Sequence[Shape]] = field(default_factory=dict)
    sources: dict[LayerKey, Any] = field(default_factory=dict)
    seed: int = 0
    dtype: Any = np.float32
    kept: dict[int, dict[str, Any]] = field(default_factory=dict)


def build_graph(definition: pb.NetParameter, build: Build) -> Graph:
    """The graph of a net in a state. Raises NetcErrors with every error found."""
    return _Builder(definition, build).graph()


def place(positions: Positions | None, layer: int | None, *path: str | int) -> Location | None:
    """Where a layer of the message, or a field of it, was written; None where that is not known."""
    return None if positions is None or layer is None else positions.at("layer", layer, *path)


class _Builder:
    def __init__(self, definition: pb.NetParameter, build: Build) -> None:
        self.definition = definition
        self.build = build
        self.errors: list[NetcError] = []
        self.nodes: list[Node] = []
        self.live: dict[str, Value] = {}  # by blob name, the value it holds now
        self.unread: dict[str, Value] = {}
        self.broken: set[str] = set()  # blobs whose shapes an earlier error left unknown
        self.shared: dict[str, Param] = {}
        self.with_params: Counter[str] = Counter()  # by name, the layers so far that have parameters
        self.drawing: Counter[str] = Counter()  # the same of those that draw random numbers, or may
        self.met: Counter[str] = Counter()  # the same of all

    def graph(self) -> Graph:
        placed = self.chosen_layers()
        for layer in insert_splits(placed):
            self.add(layer)
        raise_errors(self.errors)
        filtered = pb.NetParameter()
        filtered.CopyFrom(self.definition)
        filtered.ClearField("layer")
        filtered.layer.extend(layer.spec for layer in placed)
        filtered.state.phase = self.build.state.phase
        outputs = [self.unread[name] for name in sorted(self.unread)]
        graph = Graph(
            self.definition.name,
            self.build.state.phase,
            filtered,
            self.nodes,
            outputs,
            self.definition.force_backward,
        )
        graph.verify()
        return graph

    def chosen_layers(self) -> list[PlacedLayer]:
        """The layers that this state includes."""
        chosen = []
        for index, spec in enumerate(self.definition.layer):
            try:
                if included(spec, self.build.state):
                    chosen.append(PlacedLayer(spec, index))
            except NetcError as error:
                error.at = self.locate(index)
                self.errors.append(error)
        names: dict[str, int] = {}
        for placed in chosen:
            first = names.setdefault(placed.spec.name, placed.index or 0)
            if first != placed.index and placed.spec.name:
                log.warning(
                    "%s: two layers are called %r; what is kept by layer name is told apart by their order",
                    self.locate(placed.index),
                    placed.spec.name,
                )
        return chosen

    def locate(self, index: int | None, *path: str | int) -> Location | None:
        return place(self.build.positions, index, *path)

    def add(self, placed: PlacedLayer) -> None:
        """Adds one layer's node; its errors are kept, and its tops marked, so that later layers can be
        checked too."""
        spec = placed.spec
        location = self.locate(placed.index)
        self.met[spec.name] += 1
        try:
            bottoms = self.connect(spec, placed)
            known = layer_class(spec.type, layer=spec.name, at=self.locate(placed.index, "type"))
            if bottoms is None:
                self.broken.update(spec.top)
                return
            phase = spec.phase if spec.HasField("phase") else self.build.state.phase
            layer = known(
                spec,
                phase,
                seed=self.seed_for(spec.name),
                dtype=self.build.dtype,
                # No method of this builder: the threads of data sources have it, and would keep their net.
                locate=partial(place, self.build.positions, placed.index),
            )
            layer.written = placed.written
            warn_of_unread_options(layer)
            layer.kept = self.build.kept.setdefault(len(self.nodes), {})
            node = Node(layer, location, inputs=bottoms)
            tops = self.top_names(node)
            shapes = self.infer(node, len(tops))
            self.make_tops(node, tops, shapes)
            self.make_params(node)
            self.drawing[layer.name] += bool(layer.states) or isinstance(layer, SourceLayer)
        except NetcError as error:
            self.complete(error, spec, location)
            self.errors.append(error)
            self.broken.update(spec.top)
            return
        for value in node.inputs:
            value.consumers.append(node)
        self.nodes.append(node)

    def seed_for(self, name: str) -> int:
        """The net's seed; for a layer whose name an earlier layer draws under already, one of its own."""
        earlier = self.drawing[name]
        return (self.build.seed + earlier * SEED_STEP) & MASK_64 if earlier else self.build.seed

    def complete(self, error: NetcError, spec: pb.LayerParameter, location: Location | None) -> None:
        """Adds to a layer's error what only the graph knows: the line, the layer, how its inputs came
        about."""
        error.at = error.at or location
        error.layer = error.layer or f"{spec.name} ({spec.type})"
        inputs = [self.live[name] for name in spec.bottom if name in self.live]
        if not error.chain and inputs:
            graph = Graph("", 0, self.definition, self.nodes, [])
            error.chain = tuple(graph.chain_to(inputs[0]))

    def connect(self, spec: pb.LayerParameter, placed: PlacedLayer) -> list[Value] | None:
        """The values that a layer reads; None where an earlier error has left one of them unknown."""
        bottoms: list[Value] = []
        unknown = False
        for j, name in enumerate(spec.bottom):
            if name in self.live and name not in self.broken:
                bottoms.append(self.live[name])
                self.unread.pop(name, None)
            elif name in self.broken:
                unknown = True
            else:
                unknown = True
                near = difflib.get_close_matches(name, [*self.live, *self.broken], n=2)
                later = [layer.name for layer in self.definition.layer if name in layer.top]
                remedy = f"did you mean {' or '.join(near)}?" if near else "name a top of an earlier layer"
                if later:
                    remedy = f"layer {later[0]} makes it, but comes later or is left out in this phase"
                self.errors.append(
                    NetcError(
                        f"unknown bottom blob {name!r}",
                        at=self.locate(placed.index, "bottom", j),
                        layer=f"{spec.name} ({spec.type})",
                        blob=name,
                        remedy=remedy,
                    )
                )
        return None if unknown else bottoms

    def top_names(self, node: Node) -> list[str]:
        """The tops' names, a loss layer's unnamed ones included; checks the counts."""
        layer, spec = node.layer, node.layer.spec
        tops = list(spec.top)
        if layer.is_loss and len(tops) < layer.tops.least:
            tops += [UNNAMED] * (layer.tops.least - len(tops))
        for label, arity, names in (("bottom", layer.bottoms, spec.bottom), ("top", layer.tops, tops)):
            if not arity.allows(len(names)):
                raise layer.error(
                    f"wrong number of {label}s",
                    label,
                    expected=arity,
                    found=f"{len(names)} ({', '.join(names)})",
                )
        if layer.equal_bottoms_and_tops and len(spec.bottom) != len(tops):
            raise layer.error(
                "as many tops as bottoms are needed", expected=len(spec.bottom), found=len(tops)
            )
        return tops

    def infer(self, node: Node, tops: int) -> list[Shape]:
        """The shapes of a node's tops."""
        layer = node.layer
        layer.bottom_shapes = [value.shape for value in node.inputs]
        fed = not node.inputs and not layer.shapes_by_value
        known = self.build.shapes.get(len(self.nodes))
        key = nth_key(layer.name, self.met[layer.name])
        if known is None and fed:
            known = self.build.shapes.get(key)
        if isinstance(layer, SourceLayer):
            if key not in self.build.sources:
                self.build.sources[key] = layer.open()
            shapes = known or [top.shape for top in self.build.sources[key].tops]
        else:
            inferred = self.inferred(layer)
            shapes = known or inferred
        shapes = [tuple(int(n) for n in shape) for shape in shapes]
        if len(shapes) != tops:
            raise layer.error("wrong number of tops", "top", expected=len(shapes), found=tops)
        for name, shape in zip(layer.spec.top, shapes, strict=False):
            check_size(layer, f"blob {name!r}", shape)
        layer.top_shapes = shapes
        return shapes

    def inferred(self, layer: Layer) -> list[Shape]:
        """The shapes that a layer gives its tops. What it asks for beside them is checked for size."""
        try:
            shapes = layer.infer(layer.bottom_shapes)
        except MemoryError as error:
            raise layer.error("there is not enough memory to set the layer up") from error
        for index, blob in enumerate(layer.params):
            check_size(layer, f"parameter {index}", blob.shape)
        for name, scratch in (*layer.saved.items(), *layer.states.items()):
            check_size(layer, f"its array {name!r}", scratch.shape)
        return shapes

    def make_tops(self, node: Node, names: list[str], shapes: list[Shape]) -> None:
        layer, spec = node.layer, node.layer.spec
        if len(spec.loss_weight) not in (0, len(names)):
            raise layer.error("as many loss_weight as tops, or none, are needed", found=len(spec.loss_weight))
        for j, (name, shape) in enumerate(zip(names, shapes, strict=True)):
            runs_in_place = j < len(spec.bottom) and spec.bottom[j] == name
            if name != UNNAMED and not runs_in_place and (name in self.live or name in names[:j]):
                raise layer.error(
                    f"blob {name!r} is made by two layers",
                    expected="a name of its own",
                    remedy="rename the top, or name it as the bottom at the same place to run in place",
                )
            if runs_in_place and not layer.in_place:
                raise layer.error(
                    f"a {layer.type} layer cannot run in place",
                    remedy=f"give the top another name than {name!r}",
                )
            value = Value(name, shape, node)
            value.loss_weight = spec.loss_weight[j] if spec.loss_weight else float(layer.is_loss and j == 0)
            if runs_in_place or layer.shares_data:
                value.memory = node.inputs[j if runs_in_place else 0].memory
            if runs_in_place or layer.shares_diff:
                value.diff_memory = node.inputs[j if runs_in_place else 0].diff_memory
            node.outputs.append(value)
        for value in node.outputs[: len(spec.top)]:
            self.live[value.name] = self.unread[value.name] = value
            self.broken.discard(value.name)

    def make_params(self, node: Node) -> None:
        layer = node.layer
        self.with_params[layer.name] += bool(layer.params)
        key = nth_key(layer.name, self.with_params[layer.name])
        if len(layer.spec.param) > len(layer.params):
            raise layer.error(
                f"{len(layer.spec.param)} param entries for {len(layer.params)} parameters",
                "param",
                expected=f"at most {len(layer.params)}",
                remedy="a layer without bias_term has one parameter less",
            )
        for index, blob in enumerate(layer.params):
            spec = layer.spec.param[index] if index < len(layer.spec.param) else pb.ParamSpec()
            lr_mult = blob.lr_mult if blob.lr_mult is not None else spec.lr_mult
            param = Param(key, index, blob.shape, blob, spec.name, lr_mult, spec.decay_mult)
            param.stated.update(rate for rate in ("lr_mult", "decay_mult") if spec.HasField(rate))
            if spec.name:
                self.share(layer, param, spec)
            node.params.append(param)
        if layer.tops_are_params:
            for value, param in zip(node.outputs, node.params, strict=True):
                value.param = param

    def share(self, layer: Layer, param: Param, spec: pb.ParamSpec) -> None:
        """Joins a named parameter to the first of its name."""
        first = self.shared.setdefault(spec.name, param)
        if first is param:
            return
        same = first.shape == param.shape
        if spec.share_mode == pb.ParamSpec.PERMISSIVE:
            same = int(np.prod(first.shape)) == int(np.prod(param.shape))
        if not same:
            raise layer.error(
                f"cannot share parameter {spec.name!r} with layer {first.layer}",
                "param",
                expected=f"{list(first.shape)} (layer {first.layer}, parameter {first.index})",
                found=f"{list(param.shape)} (parameter {param.index})",
                remedy="make the layers alike, or set share_mode: PERMISSIVE where only the counts agree",
            )
        for rate in ("lr_mult", "decay_mult"):
            if not spec.HasField(rate):
                continue
            if rate in first.stated and getattr(first, rate) != getattr(spec, rate):
                raise layer.error(
                    f"shared parameter {spec.name!r} has two values of {rate}",
                    "param",
                    expected=f"{getattr(first, rate)} (layer {first.layer})",
                    found=getattr(spec, rate),
                    remedy="state it once, or the same everywhere",
                )
            setattr(first, rate, getattr(spec, rate))
            first.stated.add(rate)
        param.owner = first
