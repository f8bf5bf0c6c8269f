"""A net as boxes and arrows, for whatever draws them: a box per layer, those that run in place folded in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from netc.errors import NetcError
from netc.graph.rules import included
from netc.layer import LAYER_TYPES, Shape
from netc.proto import netc_pb2 as pb
from netc.schema.net import ParsedNet
from netc.tools.sketch import Request, sketch

# Colours by what a layer is for: the fill of its box.
FAMILIES: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    ("data", "#e3e8ef", ("Input", "Data", "ImageData", "HDF5Data", "DummyData", "MemoryData", "WindowData")),
    ("weights", "#cfe3ff", ("Convolution", "Deconvolution", "InnerProduct", "Embed", "LSTM", "RNN")),
    ("pooling", "#ffe2c2", ("Pooling", "SPP", "ROIPooling", "PSROIPooling", "Upsample", "Interp")),
    ("normalisation", "#e4d9f7", ("BatchNorm", "Scale", "Bias", "LRN", "MVN", "BN", "Normalize")),
    ("activation", "#d3f0d9", ("ReLU", "PReLU", "ELU", "Sigmoid", "TanH", "Softmax", "Dropout", "Swish")),
    ("loss", "#ffd0d4", ()),
    ("other", "#f4f1e8", ()),
)
COLOURS: Final[Mapping[str, str]] = {name: colour for name, colour, _ in FAMILIES}
ALL_PHASES: Final = "ALL"


@dataclass(eq=False)
class Box:
    """One layer. lines: its name, what it is, and the layers that run in place behind it."""

    name: str
    family: str
    lines: list[str] = field(default_factory=list)

    @property
    def colour(self) -> str:
        return COLOURS[self.family]


@dataclass(frozen=True)
class Arrow:
    """A blob between two layers; `text`: its name, where it is not the first layer's, and its shape."""

    start: Box
    end: Box
    text: str


@dataclass
class Diagram:
    """The boxes in the net's order, and the arrows between them."""

    name: str
    boxes: list[Box]
    arrows: list[Arrow]


def make_diagram(net: ParsedNet, phase: str = ALL_PHASES, request: Request | None = None) -> Diagram:
    """The diagram of a net in one phase, or of the layers of both together (phase ALL).

    Shapes are written where they can be known.
    """
    request = request or Request()
    phases = (pb.TEST, pb.TRAIN) if phase == ALL_PHASES else (pb.Phase.Value(phase),)
    shapes: dict[str, Shape] = {}
    chosen: set[int] = set()
    for number in phases:
        request.phase = number
        chosen |= {i for i, spec in enumerate(net.message.layer) if included(spec, request.state)}
        shapes = {**_shapes(net, request), **shapes}
    layers = [spec for i, spec in enumerate(net.message.layer) if i in chosen]
    return _Drafter(net.message.name, shapes).draft(layers)


def _shapes(net: ParsedNet, request: Request) -> dict[str, Shape]:
    try:
        graph = sketch(net, request).graph
    except NetcError:
        return {}  # a picture of a net is worth having even where its data is elsewhere
    return {value.name: value.shape for value in graph.values()}


class _Drafter:
    def __init__(self, name: str, shapes: Mapping[str, Shape]) -> None:
        self.shapes = shapes
        self.diagram = Diagram(name, [], [])
        self.makers: dict[str, list[Box]] = {}  # several where each phase has its own layer

    def draft(self, layers: list[pb.LayerParameter]) -> Diagram:
        for spec in layers:
            self._add(spec)
        return self.diagram

    def _add(self, spec: pb.LayerParameter) -> None:
        in_place = len(spec.bottom) == 1 and list(spec.top) == list(spec.bottom)
        makers = self.makers.get(spec.bottom[0], []) if in_place else []
        if makers:
            for box in makers:
                box.lines.append(f"{spec.name}: {describe(spec)}")
            return
        box = Box(spec.name, family(spec), [spec.name, describe(spec)])
        self.diagram.boxes.append(box)
        for blob in spec.bottom:
            for maker in self.makers.get(blob, []):
                self.diagram.arrows.append(Arrow(maker, box, self._text(maker, blob)))
        for blob in spec.top:
            fresh = blob not in spec.bottom
            restricted = len(spec.include) or len(spec.exclude)
            self.makers[blob] = [*(self.makers.get(blob, []) if fresh and restricted else []), box]

    def _text(self, maker: Box, blob: str) -> str:
        shape = "x".join(map(str, self.shapes[blob])) if self.shapes.get(blob) else ""
        return " ".join(filter(None, [blob if blob != maker.name else "", shape]))


def family(spec: pb.LayerParameter) -> str:
    """Which of `FAMILIES` a layer belongs to."""
    kind = LAYER_TYPES.get(spec.type)
    if kind is not None and kind.is_loss:
        return "loss"
    return next(
        (name for name, _, types in FAMILIES if spec.type in types), "other" if spec.bottom else "data"
    )


def describe(spec: pb.LayerParameter) -> str:
    """A layer's type and the options that make it what it is: `Convolution 64, 3x3, stride 2, pad 1`."""
    more = DESCRIPTIONS.get(spec.type)
    return ", ".join(filter(None, [spec.type, *(more(spec) if more else [])]))


def _window(options: Any) -> list[str]:
    return [
        _pair(options, "kernel", ""),
        _pair(options, "stride", "stride "),
        _pair(options, "pad", "pad "),
    ]


def _pair(options: Any, name: str, label: str) -> str:
    """kernel_size, or kernel_h and kernel_w, as 3x3; nothing where it is not stated, or says the usual."""
    height, width = (getattr(options, f"{name}_{axis}") for axis in "hw")
    whole = getattr(options, "kernel_size" if name == "kernel" else name)
    sizes = list(whole) if hasattr(whole, "__len__") else [whole]
    if height or width:
        sizes = [height, width]
    if not sizes or set(sizes) <= {0} or (name == "stride" and set(sizes) == {1}):
        return ""
    if name == "kernel" and len(sizes) == 1:
        sizes *= 2
    return label + "x".join(map(str, sizes if len(set(sizes)) > 1 or name == "kernel" else sizes[:1]))


def _filters(spec: pb.LayerParameter) -> list[str]:
    options = spec.convolution_param
    group = f"{options.group} groups" if options.group > 1 else ""
    dilation = f"dilation {options.dilation[0]}" if any(d > 1 for d in options.dilation) else ""
    return [str(options.num_output), *_window(options), group, dilation]


def _pooled(spec: pb.LayerParameter) -> list[str]:
    options = spec.pooling_param
    method = pb.PoolingParameter.PoolMethod.Name(options.pool)
    return [method, *(["global"] if options.global_pooling else _window(options))]


DESCRIPTIONS: Final[Mapping[str, Callable[[pb.LayerParameter], list[str]]]] = {
    "Convolution": _filters,
    "Deconvolution": _filters,
    "DepthwiseConvolution": _filters,
    "Dropout": lambda spec: [f"{spec.dropout_param.dropout_ratio:g}"],
    "Eltwise": lambda spec: [pb.EltwiseParameter.EltwiseOp.Name(spec.eltwise_param.operation)],
    "Embed": lambda spec: [str(spec.embed_param.num_output)],
    "InnerProduct": lambda spec: [str(spec.inner_product_param.num_output)],
    "LRN": lambda spec: [f"size {spec.lrn_param.local_size}"],
    "LSTM": lambda spec: [str(spec.recurrent_param.num_output)],
    "Pooling": _pooled,
    "RNN": lambda spec: [str(spec.recurrent_param.num_output)],
}
