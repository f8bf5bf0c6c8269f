"""Makes the net for use of a net for training: inputs in place of data, probabilities in place of losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from netc.errors import NetcError
from netc.graph.rules import included
from netc.layer import LAYER_TYPES, Layer, Shape, SourceLayer
from netc.proto import netc_pb2 as pb
from netc.schema.net import ParsedNet
from netc.schema.text import format_text
from netc.tools.sketch import FED_TYPES, Request, sketch

PROBABILITY: Final = "prob"
# What a loss layer becomes: the layer that turns its first bottom into what the loss judges.
HEADS: Final[Mapping[str, str]] = {
    "SoftmaxWithLoss": "Softmax",
    "SoftmaxWithLossOHEM": "Softmax",
    "MultinomialLogisticLoss": "",  # its bottom holds probabilities already
    "InfogainLoss": "Softmax",
    "SigmoidCrossEntropyLoss": "Sigmoid",
}
# Of a net and of its layers, what speaks of training only.
NET_FIELDS: Final = ("state", "force_backward", "debug_info")
LAYER_FIELDS: Final = ("include", "exclude", "phase", "loss_weight", "propagate_down", "blobs")
KEPT_FILLERS: Final = {"DummyData", "BN"}  # the first is its data, the second tells SegNet's BN from PSPNet's


@dataclass(frozen=True)
class Deployed:
    """The net for use, and what was decided on the way, for the reader of the file.

    inputs: what was done to the pixels of each input in training, by blob name; dropped: the layers left out,
    with the reason.
    """

    message: pb.NetParameter
    inputs: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    guessed: tuple[str, ...] = ()

    def text(self, origin: str) -> str:
        """The prototxt, under a heading that says what it came from."""
        lines = [
            f"# Made from {origin} by netc deploy; layers bear the same names, so that its weights load."
        ]
        lines += [f"# {blob}: {what}" for blob, what in self.inputs.items()]
        return "\n".join(lines) + "\n" + format_text(self.message).rstrip() + "\n"


def make_deploy(net: ParsedNet, request: Request) -> Deployed:
    """The net for use, for a batch of `request.batch` items (1 if None).

    Layers that need labels are left out; the losses that weigh most become Softmax or Sigmoid layers, lighter
    ones are taken for helpers of the training and go with all that feeds only them. Raises NetcError where
    the net is wrong, its inputs' shapes cannot be known, or nothing is left.
    """
    request.batch = request.batch or 1
    sketched = sketch(net, request)
    shapes = {
        value.name: value.shape for node in sketched.graph.nodes if not node.inputs for value in node.outputs
    }
    layers = [layer for layer in net.message.layer if included(layer, request.state)]
    made = _Maker(layers, shapes)
    message = pb.NetParameter()
    message.CopyFrom(net.message)
    for name in (*NET_FIELDS, "layer"):
        message.ClearField(name)
    message.layer.extend(made.result())
    if not any(layer.bottom for layer in message.layer):
        raise NetcError(
            "no layer of the net can do without labels",
            at=net.positions.at(),
            remedy="netc deploy is for nets that compute something from their first input",
        )
    return Deployed(message, made.inputs, made.dropped, sketched.guessed)


class _Maker:
    """Goes through the layers of the TEST net once, forward, and then drops what leads nowhere."""

    def __init__(self, layers: list[pb.LayerParameter], shapes: Mapping[str, Shape]) -> None:
        self.layers = layers
        self.shapes = shapes
        self.missing: set[str] = set()  # blobs that a net in use does not have: labels and what comes of them
        self.inputs: dict[str, str] = {}
        self.dropped: dict[str, str] = {}

    def result(self) -> list[pb.LayerParameter]:
        kept: list[pb.LayerParameter] = []
        losses: list[pb.LayerParameter] = []
        for spec in self.layers:
            if _brings_data(spec):
                kept += self._inputs(spec)
            elif _is_loss(spec):
                losses.append(spec)
                self._drop(spec, "a loss")
            elif any(bottom in self.missing for bottom in spec.bottom):
                self._drop(spec, "it needs labels")
            elif spec.type == "Silence":
                self._drop(spec, "it does nothing")
            else:
                kept.append(_for_use(spec))
                self.missing.difference_update(spec.top)
        heads, helpers = self._heads(losses)
        kept = self._without_helpers(kept, heads, helpers)
        return self._without_unread_inputs([*kept, *heads])

    def _drop(self, spec: pb.LayerParameter, why: str) -> None:
        self.dropped[spec.name] = why
        self.missing.update(top for top in spec.top if top not in spec.bottom)

    def _inputs(self, spec: pb.LayerParameter) -> list[pb.LayerParameter]:
        """The first top becomes an Input layer; the others are labels. An Input layer keeps all its tops."""
        keeps_all = spec.type == "Input"
        tops = list(spec.top) if keeps_all else list(spec.top)[:1]
        self.missing.update(top for top in spec.top if top not in tops)
        if what := _preparation(spec):
            self.inputs.update(dict.fromkeys(tops, what))
        return [self._input(spec.name if keeps_all else tops[0], tops)] if tops else []

    def _input(self, name: str, tops: Sequence[str]) -> pb.LayerParameter:
        layer = pb.LayerParameter(name=name, type="Input", top=tops)
        for top in tops:
            layer.input_param.shape.add().dim.extend(self.shapes[top])
        return layer

    def _heads(self, losses: list[pb.LayerParameter]) -> tuple[list[pb.LayerParameter], list[str]]:
        """The layers in place of the losses that weigh most, and the blobs that only lighter losses read."""
        judged = [loss for loss in losses if loss.type in HEADS and loss.bottom[0] not in self.missing]
        heaviest = max((_weight(loss) for loss in judged), default=0.0)
        helpers = [loss.bottom[0] for loss in judged if _weight(loss) < heaviest]
        main = [loss for loss in judged if _weight(loss) == heaviest and HEADS[loss.type]]
        taken = {top for layer in self.layers for top in layer.top} | {layer.name for layer in self.layers}
        heads = []
        for loss in main:
            name = (
                PROBABILITY if len(main) == 1 and PROBABILITY not in taken else f"{loss.name}_{PROBABILITY}"
            )
            head = pb.LayerParameter(name=name, type=HEADS[loss.type], bottom=loss.bottom[:1], top=[name])
            if head.type == "Softmax" and loss.softmax_param.HasField("axis"):
                head.softmax_param.axis = loss.softmax_param.axis
            heads.append(head)
        return heads, helpers

    def _without_helpers(
        self, kept: list[pb.LayerParameter], heads: list[pb.LayerParameter], helpers: list[str]
    ) -> list[pb.LayerParameter]:
        """Drops, from the end, the layers whose tops only lighter losses used."""
        useless = set(helpers)
        read = {bottom for layer in heads for bottom in layer.bottom}
        remaining = []
        for layer in reversed(kept):
            fresh = [top for top in layer.top if top not in layer.bottom]
            in_place_of_useless = not fresh and any(top in useless and top not in read for top in layer.top)
            if in_place_of_useless or (
                fresh and any(t in useless for t in fresh) and not read.intersection(fresh)
            ):
                self.dropped[layer.name] = "it feeds only a loss that weighs less than the main one"
                useless.update(layer.bottom)
                continue
            read.update(layer.bottom)
            remaining.append(layer)
        return remaining[::-1]

    def _without_unread_inputs(self, layers: list[pb.LayerParameter]) -> list[pb.LayerParameter]:
        read = {bottom for layer in layers for bottom in layer.bottom}
        kept = []
        for layer in layers:
            tops = [top for top in layer.top if top in read]
            if layer.type != "Input" or tops == list(layer.top):
                kept.append(layer)
            elif tops:
                kept.append(self._input(layer.name, tops))
        return kept


def _kind(spec: pb.LayerParameter) -> type[Layer] | None:
    return LAYER_TYPES.get(spec.type)


def _brings_data(spec: pb.LayerParameter) -> bool:
    kind = _kind(spec)
    is_source = kind is not None and issubclass(kind, SourceLayer)
    return is_source or (spec.type in FED_TYPES and not spec.bottom)


def _is_loss(spec: pb.LayerParameter) -> bool:
    kind = _kind(spec)
    return kind is not None and kind.is_loss


def _weight(loss: pb.LayerParameter) -> float:
    return float(loss.loss_weight[0]) if loss.loss_weight else 1.0


def _for_use(spec: pb.LayerParameter) -> pb.LayerParameter:
    """A layer without what speaks of training only; names that share parameters stay."""
    layer = pb.LayerParameter()
    layer.CopyFrom(spec)
    for name in LAYER_FIELDS:
        layer.ClearField(name)
    for param in layer.param:
        param.ClearField("lr_mult")
        param.ClearField("decay_mult")
    if not any(param.name for param in layer.param):
        layer.ClearField("param")
    if layer.type not in KEPT_FILLERS:
        for _, options in list(layer.ListFields()):
            _clear_fillers(options)
    return layer


def _clear_fillers(options: Any) -> None:
    if not hasattr(options, "ListFields"):
        return
    for inner, _ in list(options.ListFields()):
        if inner.message_type is not None and inner.message_type.name == "FillerParameter":
            options.ClearField(inner.name)


# What a data layer's transform_param does to pixels, in the order in which it is done.
PREPARATIONS: Final[tuple[tuple[str, Callable[[Any], str]], ...]] = (
    ("force_color", lambda value: "in colour" if value else ""),
    ("force_gray", lambda value: "in gray" if value else ""),
    ("crop_size", lambda value: f"the central {value}x{value} pixels"),
    ("mean_file", lambda value: f"less the mean in {value}"),
    ("mean_value", lambda values: f"less {', '.join(f'{value:g}' for value in values)}"),
    ("scale", lambda value: f"times {value:g}"),
)


def _preparation(spec: pb.LayerParameter) -> str:
    """What the training did to pixels before the net saw them; empty for none."""
    given = {field.name: value for field, value in spec.transform_param.ListFields()}
    return _join(say(given[name]) for name, say in PREPARATIONS if name in given)


def _join(parts: Iterable[str]) -> str:
    return ", ".join(part for part in parts if part)
