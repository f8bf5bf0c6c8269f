"""Where a net's two phases do not agree: a train net and a test net share parameters by name and shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from netc.tools.lint.data_rules import IMAGE_TYPES
from netc.tools.lint.finding import Hit, Rule
from netc.tools.lint.wiring import LEARNED_TYPES, NetView, Wired

TRANSFORMS: Final = ("scale", "mean_file", "mean_value", "crop_size", "force_color", "force_gray")


@dataclass(frozen=True)
class Pair:
    """The net that trains and one that tests it."""

    train: NetView
    test: NetView


def untrained_layers(pair: Pair) -> Iterator[Hit]:
    if not pair.train.has_loss:
        return
    trained = {layer.spec.name for layer in pair.train.layers}
    for layer in pair.test.layers:
        if layer.type in LEARNED_TYPES and layer.spec.name not in trained and len(layer.spec.bottom) < 2:
            yield layer.hit(
                "phase TRAIN has no layer of this name: tests use parameters that were never trained",
                "give the layer the name that it has in phase TRAIN",
                "name",
            )


def different_shapes(pair: Pair) -> Iterator[Hit]:
    if pair.train.graph is None or pair.test.graph is None:
        return
    nodes = [node for node in pair.train.graph.nodes if node.params]
    trained = {node.name: [param.shape for param in node.params] for node in nodes}
    layers = {layer.spec.name: layer for layer in pair.test.layers}
    for node in pair.test.graph.nodes:
        shapes = [param.shape for param in node.params]
        if node.name in layers and shapes and node.name in trained and trained[node.name] != shapes:
            yield layers[node.name].hit(
                f"its parameters are {_text(shapes)}, and {_text(trained[node.name])} in phase TRAIN",
                "make the layer and what feeds it alike in both phases",
                "name",
            )


def different_types(pair: Pair) -> Iterator[Hit]:
    trained: dict[str, list[Wired]] = {}
    for layer in pair.train.layers:
        trained.setdefault(layer.spec.name, []).append(layer)
    for layer in pair.test.layers:
        others = trained.get(layer.spec.name, [])
        alike = any(other.type == layer.type for other in others)
        if others and not alike and layer.type in LEARNED_TYPES:
            yield layer.hit(
                f"in phase TRAIN the layer of this name is {others[0].type}, in line {others[0].at().line}",
                "give different layers different names",
                "type",
            )


def different_transforms(pair: Pair) -> Iterator[Hit]:
    sources = {top: layer for layer in pair.train.of(*IMAGE_TYPES) for top in layer.spec.top[:1]}
    for layer in pair.test.of(*IMAGE_TYPES):
        other = sources.get(layer.spec.top[0]) if layer.spec.top else None
        for name in TRANSFORMS if other is not None else ():
            assert other is not None
            ours, theirs = _transform(layer, name), _transform(other, name)
            if ours != theirs:
                yield layer.hit(
                    f"{name} is {_said(ours)} here, and {_said(theirs)} in phase TRAIN",
                    "transform test images as those that the net learns from",
                    "transform_param",
                    name,
                )


def _transform(layer: Wired, name: str) -> Any:
    value = getattr(layer.spec.transform_param, name)
    return list(value) if name == "mean_value" else value


def _said(value: Any) -> str:
    return str(value) if value else "not set"


def _text(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


PAIR_RULES: Final[tuple[Rule[Pair], ...]] = (
    Rule("untrained-layer", "warning", "a layer with parameters in phase TEST only", untrained_layers),
    Rule("different-shapes", "error", "parameters of one layer in two shapes", different_shapes),
    Rule("different-types", "error", "two types under one name", different_types),
    Rule("different-transforms", "warning", "images transformed otherwise in tests", different_transforms),
)
