"""The forms of convolution, depthwise convolution and deconvolution, alone or with the ReLU behind them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from netc.backends.cuda.convolution.channel_sum import Relu, channel_sum_floats, sum_channels
from netc.backends.cuda.convolution.choice import ConvChoice, on_tensor_cores
from netc.backends.cuda.convolution.conv_last_images import Reading
from netc.backends.cuda.convolution.shape import ConvShape, Layouts
from netc.backends.cuda.convolution.work import NO_RELU, Candidate, Filters, Images
from netc.backends.cuda.device import Device, Memory
from netc.backends.cuda.device.form import DeviceForm, fits, layout_of
from netc.backends.cuda.launching import in_order
from netc.backends.form import NHWC, PLAIN, Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers, Scratch
from netc.layer.base import count
from netc.layer.conv import SlidingFilters
from netc.layer.window import Window


class Convolution(DeviceForm):
    """Filters over every bottom, and the ReLU that may follow.

    On tensor cores bottoms are taken as they lie, and tops lie as the mode says, as do depthwise
    convolutions' bottoms and tops.
    """

    def __init__(self, nodes: Sequence[Node], mode: Mode, device: Device, shape: ConvShape) -> None:
        super().__init__(nodes, device)
        bottom, self.top_layout = self._layouts(mode, device, shape)
        self.bottom_layouts: list[str] = [bottom] * len(self.inputs)
        self.top_layouts = [self.top_layout] * len(self.outputs)
        self.shape = shape
        self.kernels = ConvChoice(device, mode, shape, self._sides(bottom, self.top_layout))
        self.has_bias = len(nodes[0].params) > 1
        self.slope, self.variant = NO_RELU, self._forward_kernel.family
        self.relu_in_place = False
        if self._has_relu:
            relu = nodes[-1].layer
            self.slope, self.relu_in_place = relu.options.negative_slope, relu.runs_in_place
            self.variant += ", ReLU"
            self.backward_tops = (0,)
        self.forward_workspace = _room(floats=self._forward_kernel.floats)
        backward = [self._sum_floats() if self._sums else 0]
        if mode.backward and any(self.input_needs_grad):
            backward.append(self._backward_data_kernel.floats)
        if mode.backward and self.param_needs_grad[0]:
            backward.append(self.kernels.backward_weights.floats)
        else:
            self.backward_bottoms = ()
        masked = count(self.outputs[0].shape) if self._has_relu and not self.relu_in_place else 0
        self.packs = self._packed_by_both() if mode.backward else None
        packed = self.packs.floats if self.packs else 0
        self.backward_workspace = _room(floats=max(backward), masked=masked, packed=packed)

    @property
    def _has_relu(self) -> bool:
        return self.nodes[-1].type == "ReLU"

    @property
    def _wants_bias(self) -> bool:
        return self.has_bias and self.param_needs_grad[1]

    @property
    def _sums(self) -> bool:
        return self._has_relu or self._wants_bias

    def _layouts(self, mode: Mode, device: Device, shape: ConvShape) -> tuple[str, str]:
        """How the bottoms and the tops lie."""
        window = self.node.layer.window  # type: ignore[attr-defined]
        images = len(window.kernel) == 2 and len(self.inputs[0].shape) == 4
        if images and shape.is_depthwise:
            return mode.layout, mode.layout
        if not images or not on_tensor_cores(device, mode.math):
            return PLAIN, PLAIN
        return layout_of(self.node.inputs), mode.layout

    # ---- what a deconvolution does the other way round ----
    def _sides(self, bottom: str, top: str) -> Layouts:
        return Layouts(bottom, top)

    def _top_sizes(self) -> tuple[int, int, int]:
        """Images, channels and cells; where the channels of a cell lie side by side, all cells for images."""
        n, k, plane = self.shape.n, self.shape.k, self.shape.p * self.shape.q
        return (n * plane, k, 1) if self.top_layout == NHWC else (n, k, plane)

    @property
    def _forward_kernel(self) -> Candidate:
        return self.kernels.forward

    @property
    def _backward_data_kernel(self) -> Candidate:
        return self.kernels.backward_data

    def _packed_by_both(self) -> Reading | None:
        """What both directions of the backward pass would make of a top's gradient, each for itself."""
        if not any(self.input_needs_grad) or not self.param_needs_grad[0]:
            return None
        packs = self.kernels.backward_data.packs
        return packs if packs == self.kernels.backward_weights.packs else None

    def _backward_weights(self, x: Memory, dy: Memory, dw: Memory, room: Memory | None, packed: bool) -> Run:
        work = Filters(x, dy, dw, room, packed)
        return self.kernels.backward_weights.bind(self.device, self.shape, work)

    # ---- both ----
    def bind_forward(self, work: Images) -> Run:
        """The forward pass of one bottom."""
        return self._forward_kernel.bind(self.device, self.shape, work)

    @property
    def moment_parts(self) -> int:
        """As its forward kernel's `Candidate` says."""
        return self._forward_kernel.moment_parts

    def _backward_data(self, dy: Memory, w: Memory, dx: Memory, room: Memory | None, packed: bool) -> Run:
        work = Images(dy, w, dx, workspace=room, packed=packed)
        return self._backward_data_kernel.bind(self.device, self.shape, work)

    def _sum_floats(self) -> int:
        return channel_sum_floats(self.device, *self._top_sizes())

    def forward(self, b: Buffers) -> Run | None:
        w, room = self.memory(b.params[0]), self.memory_if(b.workspace.get("floats"))
        bias = self.memory(b.params[1]) if self.has_bias else None
        return in_order(
            *(
                self.bind_forward(Images(self.memory(x), w, self.memory(y), bias, self.slope, room))
                for x, y in zip(b.bottoms, b.tops, strict=True)
            )
        )

    def backward(self, b: Buffers) -> Run | None:
        return in_order(*(self._backward(b, i) for i in range(len(b.bottoms))))

    def _backward(self, b: Buffers, i: int) -> Run | None:
        """Everything that comes from one top."""
        dx, dy = self.memory_if(b.bottom_grads[i]), self.memory_if(b.top_grads[i])
        if dy is None:
            return partial(self.device.fill, dx) if dx else None
        room, dw = self.memory_if(b.workspace.get("floats")), self.memory_if(b.param_grads[0])
        dbias = self.memory_if(b.param_grads[1]) if self.has_bias else None
        relu = None
        if self._has_relu:
            masked = dy if self.relu_in_place else self.memory(b.workspace["masked"])
            relu = Relu(self.memory(b.tops[0]), masked, self.slope)
        runs: list[Run | None] = []
        if relu or dbias:
            runs.append(sum_channels(self.device, self._top_sizes(), dy, dbias, relu, room))
        dy, packed = relu.dx if relu else dy, bool(self.packs and dw and dx)
        if self.packs and packed:
            packing, dy = self.packs.bind(self.device, dy, self.memory(b.workspace["packed"]))
            runs += packing
        if dw:
            runs.append(self._backward_weights(self.memory(b.bottoms[i]), dy, dw, room, packed))
        if dx:
            runs.append(self._backward_data(dy, self.memory(b.params[0]), dx, room, packed))
        return in_order(*runs)

    def flops(self) -> int:
        return self.shape.flops * len(self.outputs)


class Deconvolution(Convolution):
    """The filters' backward pass run forward: the bottom is y, the small side of the shape, the top is x."""

    def _sides(self, bottom: str, top: str) -> Layouts:
        return Layouts(top, bottom)

    def _top_sizes(self) -> tuple[int, int, int]:
        n, c, plane = self.shape.n, self.shape.c, self.shape.h * self.shape.w
        return (n * plane, c, 1) if self.top_layout == NHWC else (n, c, plane)

    @property
    def _forward_kernel(self) -> Candidate:
        return self.kernels.backward_data

    @property
    def _backward_data_kernel(self) -> Candidate:
        return self.kernels.forward

    def _packed_by_both(self) -> Reading | None:
        return None  # the direction to the filters has it for x

    def _backward_weights(self, x: Memory, dy: Memory, dw: Memory, room: Memory | None, packed: bool) -> Run:
        return self.kernels.backward_weights.bind(self.device, self.shape, Filters(dy, x, dw, room))


def _room(**floats: int) -> dict[str, Scratch]:
    return {name: Scratch((number,)) for name, number in floats.items() if number}


def shape_of(node: Node) -> ConvShape | None:
    """A layer's sizes; one spatial axis is an image of one row. None for any other number of them."""
    layer = node.layer
    assert isinstance(layer, SlidingFilters)
    axes, bottom, top = len(layer.window.kernel), node.inputs[0].shape, node.outputs[0].shape
    if axes not in (1, 2):
        return None
    window, one = layer.window, (1,) * (2 - axes)
    none = (0,) * (2 - axes)
    pairs = Window(
        (*one, *window.kernel), (*one, *window.stride), (*none, *window.pad), (*one, *window.dilation)
    )
    images = count(bottom[: layer.axis])
    small, large = ((images, blob[layer.axis], *one, *blob[layer.axis + 1 :]) for blob in (top, bottom))
    if layer.type == "Deconvolution":
        small, large = large, small
    group = bottom[layer.axis] if layer.type == "ConvolutionDepthwise" else layer.options.group
    return ConvShape.of(pairs, large, small, group)


def make_convolution(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    """None unless there are one or two spatial axes, and where a ReLU's slope cannot be told from its top."""
    shape = shape_of(nodes[0])
    if shape is None or not shape.fits or not fits(nodes):
        return None
    if len(nodes) > 1 and not tells_slope(nodes[1]):
        return None
    form = Deconvolution if nodes[0].type == "Deconvolution" else Convolution
    return form(nodes, mode, device, shape)


def tells_slope(relu: Node) -> bool:
    """Whether backward sees from a ReLU's top where its bottom was negative."""
    kept = relu.layer.runs_in_place or not relu.outputs[0].is_overwritten()
    return kept and relu.layer.options.negative_slope >= 0


TYPES = ("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise", "Deconvolution")
FORMS: dict[tuple[str, ...], Maker] = {
    (type_, *after): make_convolution for type_ in TYPES for after in ((), ("ReLU",))
}
