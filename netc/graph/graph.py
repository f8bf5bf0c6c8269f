"""The graph: nodes in execution order, values in single assignment, parameters shared by name; a printer and
a verifier."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from netc.errors import Location, NetcError
from netc.layer import Layer, ParamBlob, Shape
from netc.proto import netc_pb2 as pb
from netc.schema.layer_keys import LayerKey


@dataclass(eq=False, repr=False)
class Value:
    """One result of one node. A layer that runs in place makes a new Value of the same blob name.

    `memory` is the Value whose memory this one uses (itself, unless in place or another view of its bottom);
    `diff_memory` the same for its gradient. Caffe's numbers depend on this sharing: what a later layer writes
    in place, the earlier layers' backward reads. `memory_elements` is how many elements it takes there: more
    than its shape's where a backend pads it.
    """

    name: str
    shape: Shape
    producer: Node
    consumers: list[Node] = field(default_factory=list)
    loss_weight: float = 0.0
    param: Param | None = None  # the parameter whose memory this is, where a layer gives one out as its top
    layout: str = "plain"  # how its elements lie in memory; anything but plain is a backend's choice
    lies_plain: bool = False  # whatever layout its neighbours work in
    memory: Value = field(init=False)
    diff_memory: Value = field(init=False)
    memory_elements: int = field(init=False)

    def __post_init__(self) -> None:
        self.memory = self
        self.diff_memory = self
        self.memory_elements = math.prod(self.shape)

    def is_overwritten(self) -> bool:
        """Whether a later layer writes into this value's memory, in place: backward must not read it then."""
        later = [value for node in self.consumers for value in node.outputs if value.memory is self.memory]
        return any(not value.producer.layer.shares_data or value.is_overwritten() for value in later)

    def __repr__(self) -> str:
        return f"Value({self.name!r}, {self.shape}, {self.layout})"


@dataclass(eq=False)
class Param:
    """A parameter of one layer. Shared ones point at the first layer's through `owner`.

    Layers of one name are told apart by their order among those with parameters.
    """

    layer: LayerKey
    index: int
    shape: Shape
    blob: ParamBlob
    name: str = ""
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    stated: set[str] = field(default_factory=set)  # which of the two rates the prototxt states
    owner: Param = field(init=False)

    def __post_init__(self) -> None:
        self.owner = self


@dataclass(eq=False, repr=False)
class Node:
    """A layer in its place: what it reads, what it makes, its parameters, and which gradients are wanted from
    it."""

    layer: Layer
    location: Location | None
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    params: list[Param] = field(default_factory=list)
    needs_backward: bool = False
    input_needs_grad: list[bool] = field(default_factory=list)
    param_needs_grad: list[bool] = field(default_factory=list)
    fresh_grads: list[bool] = field(default_factory=list)  # by parameter: whether it is the first to give one

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def type(self) -> str:
        return self.layer.type

    def __repr__(self) -> str:
        return f"Node({self.name!r}, {self.type})"


@dataclass(eq=False, repr=False)
class Graph:
    """A net for one phase and one set of input shapes."""

    name: str
    phase: int
    definition: pb.NetParameter  # filtered for the state, before split layers
    nodes: list[Node]
    outputs: list[Value]
    force_backward: bool = False

    def values(self) -> Iterator[Value]:
        """Every value, in the order it is made."""
        for node in self.nodes:
            yield from node.outputs

    def blob_names(self) -> list[str]:
        """Blob names in the order of first appearance, as Caffe numbers them."""
        return list(dict.fromkeys(value.name for value in self.values()))

    def params(self) -> Iterator[Param]:
        """Every layer's parameters, shared ones once for each layer that uses them."""
        for node in self.nodes:
            yield from node.params

    def chain_to(self, value: Value) -> list[str]:
        """The producers that led to a value, first to last, along first inputs: for messages. Splits, which
        netc puts in, are left out."""
        chain: list[str] = []
        walk: Value | None = value
        while walk is not None and len(chain) < 8:
            shape = " x ".join(map(str, walk.shape)) or "scalar"
            if walk.producer.type != "Split":
                chain.append(f"{walk.producer.name} ({walk.producer.type}) {walk.name}: {shape}")
            walk = walk.producer.inputs[0] if walk.producer.inputs else None
        return chain[::-1]

    def verify(self) -> None:
        """Checks the invariants that passes rely on; a failure is a defect of netc, not of a net.

        Raises AssertionError naming the node.
        """
        made: set[int] = set()
        for node in self.nodes:
            for value in node.inputs:
                assert id(value) in made, f"{node.name} reads {value.name} before it is made"
                assert node in value.consumers, f"{value.name} does not know its consumer {node.name}"
            for value in node.outputs:
                assert id(value) not in made, f"{value.name} is made twice"
                assert value.producer is node, f"{value.name} names another producer than {node.name}"
                assert id(value.memory) in made or value.memory is value, f"{value.name} lies in later memory"
                made.add(id(value))
            assert len(node.input_needs_grad) in (0, len(node.inputs)), node.name
        for value in self.outputs:
            assert id(value) in made, f"output {value.name} is never made"

    def __str__(self) -> str:
        lines = [f"net {self.name!r} ({pb.Phase.Name(self.phase)})"]
        for node in self.nodes:
            read = ", ".join(value.name for value in node.inputs)
            made = ", ".join(f"{value.name}{list(value.shape)}" for value in node.outputs)
            grads = "  backward" if node.needs_backward else ""
            lines.append(f"  {node.name:24s} {node.type:18s} {read} -> {made}{grads}")
        return "\n".join(lines)


def output_named(graph: Graph, name: str) -> Value:
    """The last value of a blob name: what the blob holds when the pass is over."""
    found = [value for value in graph.values() if value.name == name]
    if not found:
        raise NetcError(f"the net has no blob {name!r}", blob=name, expected=", ".join(graph.blob_names()))
    return found[-1]
