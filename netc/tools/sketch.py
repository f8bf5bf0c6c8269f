"""The graph of a net without its parameters, and without its data where that cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from netc.data import Source, TopSpec
from netc.errors import NetcError
from netc.graph import Build, Graph, State, build_graph
from netc.graph.rules import included
from netc.layer import LAYER_TYPES, Layer, Shape, SourceLayer
from netc.passes import run_passes
from netc.proto import netc_pb2 as pb
from netc.schema.layer_keys import LayerKey, layer_keys
from netc.schema.net import ParsedNet

log = logging.getLogger(__name__)

FED_TYPES: Final = ("Input", "DummyData", "MemoryData")  # beside the sources of data
CHANNELS: Final = 3  # of an image that cannot be looked at
REMEDY: Final = "make the data readable from here, or give the shape: -shape data:1,3,224,224"
# The tops behind the first, of sources whose data cannot be read: from the images' shape (N, C, H, W).
OTHER_TOPS: Final[Mapping[str, Callable[[Shape], Shape]]] = {
    "ImageSegData": lambda image: (image[0], 1, *image[2:]),
    "AnnotatedData": lambda image: (1, 1, 1, 8),
}


@dataclass(frozen=True)
class Sketch:
    """A graph, and how far it may be trusted.

    batch: the number of items that its inputs hold; guessed: the layers whose shapes were not read from data.
    """

    graph: Graph
    batch: int
    guessed: tuple[str, ...] = ()


@dataclass
class Request:
    """What to build: the net's state; batch: items per pass, None for as many as the prototxt says; shapes:
    of inputs, by blob name; guess: whether a crop_size may stand in for data that cannot be read."""

    phase: int = pb.TEST
    level: int = 0
    stages: Sequence[str] = ()
    batch: int | None = None
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    guess: bool = True

    @property
    def state(self) -> State:
        return State(self.phase, self.level, frozenset(self.stages))


def sketch(net: ParsedNet, request: Request) -> Sketch:
    """The graph of a net as `request` wants it. Raises NetcError for what is wrong with the net, or where
    its inputs' shapes cannot be known."""
    shapes, guessed = _input_shapes(net, request)
    batch = next((tops[0][0] for tops in shapes.values() if tops and tops[0]), 1)
    if request.batch is not None and request.batch != batch:
        resized = {
            name: [_resized(top, batch, request.batch) for top in tops] for name, tops in shapes.items()
        }
        try:
            return Sketch(_build(net, request, resized), request.batch, guessed)
        except NetcError as error:
            graph = _build(net, request, shapes)  # raises where the net itself is wrong
            log.warning(
                "the net does not take batches of %d, this is for %d: %s", request.batch, batch, error.what
            )
            return Sketch(graph, batch, guessed)
    return Sketch(_build(net, request, shapes), batch, guessed)


def _build(net: ParsedNet, request: Request, shapes: Mapping[LayerKey, Sequence[Shape]]) -> Graph:
    sources: dict[LayerKey, Any] = {layer: _StatedSource(tops) for layer, tops in shapes.items()}
    return run_passes(build_graph(net.message, Build(request.state, net.positions, shapes, sources)))


class _StatedSource(Source):
    """Stands in for data that is not opened: it has shapes, and no batches."""

    def __init__(self, tops: Sequence[Shape]) -> None:
        self._tops = tuple(TopSpec(top) for top in tops)

    @property
    def tops(self) -> tuple[TopSpec, ...]:
        return self._tops


def _resized(shape: Shape, batch: int, wanted: int) -> Shape:
    return (wanted, *shape[1:]) if shape and shape[0] == batch else shape


def _input_shapes(net: ParsedNet, request: Request) -> tuple[dict[LayerKey, list[Shape]], tuple[str, ...]]:
    """The shapes of all tops that come from outside, by layer; and the layers where they are a guess."""
    shapes: dict[LayerKey, list[Shape]] = {}
    guessed = []
    chosen = _chosen(net, request)
    keys = layer_keys(spec.name for _, spec in chosen)
    for key, (index, spec) in zip(keys, chosen, strict=True):
        kind = LAYER_TYPES.get(spec.type)
        if kind is None or not _is_fed(kind):
            continue
        layer = kind(
            spec, request.phase, locate=lambda *path, index=index: net.positions.at("layer", index, *path)
        )
        given = [request.shapes.get(top) for top in spec.top]
        if all(shape is not None for shape in given):
            shapes[key] = [shape for shape in given if shape is not None]
            continue
        try:
            known = _stated_shapes(layer)
        except NetcError as error:
            known = _guess(layer, given[0] if given else None) if request.guess else []
            if not known:
                error.remedy = f"{error.remedy}; {REMEDY}" if error.remedy else REMEDY
                raise
            if given[0] is None:
                guessed.append(spec.name)
        shapes[key] = [shape or natural for shape, natural in zip(given, known, strict=False)]
    return shapes, tuple(guessed)


def _chosen(net: ParsedNet, request: Request) -> list[tuple[int, pb.LayerParameter]]:
    """The layers of the wanted state, each with its place in the file."""
    chosen = []
    for index, spec in enumerate(net.message.layer):
        with suppress(NetcError):  # a rule that makes no sense is the graph's to report
            if included(spec, request.state):
                chosen.append((index, spec))
    return chosen


def _is_fed(kind: type[Layer]) -> bool:
    return issubclass(kind, SourceLayer) or kind.type in FED_TYPES


def _stated_shapes(layer: Layer) -> list[Shape]:
    """What the layer's data, or its options, say of its tops."""
    if not isinstance(layer, SourceLayer):
        return [tuple(int(n) for n in shape) for shape in layer.infer([])]
    source = layer.open()
    try:
        return [tuple(top.shape) for top in source.tops]
    finally:
        source.close()


def _guess(layer: Layer, image: Shape | None) -> list[Shape]:
    """The tops of a source without data, from what is given of the first or from crop_size; else none."""
    spec = layer.spec
    crop = spec.transform_param.crop_size
    gray = spec.transform_param.force_gray or len(spec.transform_param.mean_value) == 1
    if image is None and crop:
        batch = getattr(layer.options, "batch_size", 0) or 1
        image = (batch, 1 if gray else CHANNELS, crop, crop)
    if image is None:
        return []
    other = OTHER_TOPS.get(spec.type, lambda image: image[:1])
    return [image] + [other(image)] * (len(spec.top) - 1)
