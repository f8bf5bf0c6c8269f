"""The layers of one phase joined by their blobs: all that most rules need, without data or shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from netc.errors import Location, NetcError
from netc.graph import Graph
from netc.graph.rules import included
from netc.layer import LAYER_TYPES, SourceLayer
from netc.proto import netc_pb2 as pb
from netc.schema.net import ParsedNet
from netc.tools.lint.finding import Hit
from netc.tools.sketch import Request, sketch

# Layers whose output is a weighted sum of their input.
LINEAR_TYPES: Final = (
    "Convolution",
    "ConvolutionDepthwise",
    "Deconvolution",
    "DepthwiseConvolution",
    "InnerProduct",
)
LEARNED_TYPES: Final = (*LINEAR_TYPES, "BN", "Bias", "Embed", "LSTM", "PReLU", "Parameter", "RNN", "Scale")


@dataclass(eq=False)
class Wired:
    """One layer in one phase, its producers by bottom, and its readers with the bottom at which they read."""

    spec: pb.LayerParameter
    index: int
    net: ParsedNet
    inputs: list[Wired | None] = field(default_factory=list)
    readers: list[tuple[Wired, int]] = field(default_factory=list)
    read_tops: set[str] = field(default_factory=set)

    @property
    def type(self) -> str:
        return str(self.spec.type)

    @property
    def options(self) -> Any:
        """The layer's own message; None for a type without one."""
        kind = LAYER_TYPES.get(self.type)
        name = kind.options_field if kind else None
        return getattr(self.spec, name) if name else None

    @property
    def is_loss(self) -> bool:
        kind = LAYER_TYPES.get(self.type)
        return (kind is not None and kind.is_loss) or any(weight != 0 for weight in self.spec.loss_weight)

    @property
    def brings_data(self) -> bool:
        kind = LAYER_TYPES.get(self.type)
        return kind is not None and issubclass(kind, SourceLayer)

    @property
    def first_input(self) -> Wired | None:
        return self.inputs[0] if self.inputs else None

    def at(self, *path: str | int) -> Location:
        return self.net.positions.at("layer", self.index, *path)

    def hit(self, what: str, remedy: str, *path: str | int) -> Hit:
        """What is to be said of this layer, at the line of one of its fields (or its own)."""
        return Hit(what, self.at(*path), remedy, f"{self.spec.name} ({self.type})")

    def hit_option(self, what: str, remedy: str, *path: str | int) -> Hit:
        """The same at the line of one of the layer's options."""
        kind = LAYER_TYPES.get(self.type)
        return self.hit(what, remedy, *((kind.options_field, *path) if kind and kind.options_field else ()))

    def above(self) -> Iterator[Wired]:
        """All layers that this one feeds, directly or not."""
        yield from _walk(self, lambda layer: [reader for reader, _ in layer.readers])

    def below(self) -> Iterator[Wired]:
        """All layers that feed this one."""
        yield from _walk(self, lambda layer: [feeder for feeder in layer.inputs if feeder is not None])


def _walk(start: Wired, neighbours: Any) -> Iterator[Wired]:
    seen: set[int] = set()
    waiting = list(neighbours(start))
    while waiting:
        layer = waiting.pop()
        if layer.index in seen:
            continue
        seen.add(layer.index)
        yield layer
        waiting += neighbours(layer)


@dataclass
class NetView:
    """A net in one phase. graph: with shapes, where they are known; error: why there is no graph."""

    net: ParsedNet
    phase: int
    layers: list[Wired]
    graph: Graph | None = None
    error: NetcError | None = None

    @property
    def phase_name(self) -> str:
        return str(pb.Phase.Name(self.phase))

    @property
    def has_loss(self) -> bool:
        return any(layer.is_loss for layer in self.layers)

    def of(self, *types: str) -> Iterator[Wired]:
        """The layers of some types."""
        return (layer for layer in self.layers if layer.type in types)


def view_net(net: ParsedNet, request: Request) -> NetView:
    """The net as `request` wants it; what is wrong with it is kept in `error`, not raised."""
    view = NetView(net, request.phase, _wire(net, request))
    try:
        view.graph = sketch(net, request).graph
    except NetcError as error:
        view.error = error
    return view


def _wire(net: ParsedNet, request: Request) -> list[Wired]:
    layers: list[Wired] = []
    makers: dict[str, Wired] = {}
    for index, spec in enumerate(net.message.layer):
        try:
            if not included(spec, request.state):
                continue
        except NetcError:
            continue  # the graph reports it
        layer = Wired(spec, index, net)
        for position, blob in enumerate(spec.bottom):
            maker = makers.get(blob)
            layer.inputs.append(maker)
            if maker is not None:
                maker.readers.append((layer, position))
                maker.read_tops.add(blob)
        makers.update(dict.fromkeys(spec.top, layer))
        layers.append(layer)
    return layers
