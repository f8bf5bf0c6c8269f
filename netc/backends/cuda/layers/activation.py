"""Activations on the device: the table of kernels/activation.cu, their launches, and their forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Device, Memory
from netc.backends.cuda.device.form import DeviceForm, around_axis, fits
from netc.backends.cuda.launching import Launch, in_order
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES, THREADS, blocks_for, pack_of
from netc.backends.cuda.layers.reduce import Sums, sum_channels
from netc.backends.cuda.layers.scale import prelu_backward, prelu_forward
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers
from netc.layer.base import count

Constants = tuple[float, ...]  # p, q and r of a structure of activation.cu, zeros left out


@dataclass(frozen=True)
class Activation:
    """A structure of activation.cu, which of x and y its backward reads, and its constants for a layer.

    keeps: the layer's saved array that forward fills and backward gets in place of x.
    """

    structure: str
    reads_x: bool
    reads_y: bool
    constants: Callable[[Any], Constants] = lambda layer: ()
    keeps: str | None = None


def _slope(layer: Any) -> Constants:
    return (layer.options.negative_slope,)


def _line(layer: Any) -> Constants:
    return layer.scale, layer.shift


# By layer type; Power has one for each kind of power.
ACTIVATIONS = {
    "ReLU": Activation("Relu", True, False, _slope),
    "ReLU6": Activation("Relu6", True, False, _slope),
    "Clip": Activation("Clip", True, False, lambda layer: (layer.options.min, layer.options.max)),
    "ELU": Activation("Elu", True, True, lambda layer: (layer.options.alpha,)),
    "SeLU": Activation("Selu", True, False, lambda layer: (layer.options.alpha, layer.factor)),
    "Sigmoid": Activation("Sigmoid", False, True),
    "TanH": Activation("TanH", False, True),
    "BNLL": Activation("Bnll", True, False),
    "Swish": Activation("Swish", True, True, lambda layer: (layer.options.beta,), keeps="sigmoid"),
    "Threshold": Activation("Threshold", False, False, lambda layer: (layer.options.threshold,)),
    "AbsVal": Activation("Absolute", True, False),
    "Exp": Activation("Exponential", False, True, lambda layer: (layer.inner_scale, layer.outer_scale)),
    "Log": Activation(
        "Logarithm", True, False, lambda layer: (layer.options.scale, layer.options.shift, layer.base_scale)
    ),
    "Power": Activation("Power", True, True, lambda layer: (*_line(layer), layer.power)),
    "Power 1": Activation("Linear", False, False, _line),
    "Power 2": Activation("Squared", True, False, _line),
}
POWERS = {1: "Power 1", 2: "Power 2"}


def _variant(direction: str, name: str) -> Variant:
    expression = f"activation_{direction}<{ACTIVATIONS[name].structure}>"
    return Variant(f"{name} {direction}", "activation.cu", expression, THREADS)


VARIANTS = {
    (direction, name): _variant(direction, name)
    for direction in ("forward", "backward")
    for name in ACTIVATIONS
    if (direction, name) != ("backward", "Threshold")
}


def prepare_forward(
    device: Device, name: str, x: Memory, y: Memory, constants: Constants = (), kept: Memory | None = None
) -> Run:
    """y = f(x) over all floats of x; y may be x. name: a key of ACTIVATIONS."""
    n, pack = x.nbytes // FLOAT_BYTES, pack_of(x, y, kept)
    arguments = (np.int64(n), np.bool_(pack > 1), x, y, kept, *_three(constants))
    return Launch.of(device, VARIANTS["forward", name], (blocks_for(device, n, pack),), arguments)


def prepare_backward(
    device: Device,
    name: str,
    x: Memory | None,
    y: Memory | None,
    dy: Memory,
    dx: Memory,
    constants: Constants = (),
) -> Run:
    """dx = dy f'(x) over all floats of dy; dx may be dy. x or y may be None where it is not read."""
    n, pack = dy.nbytes // FLOAT_BYTES, pack_of(x, y, dy, dx)
    arguments = (np.int64(n), np.bool_(pack > 1), x, y, dy, dx, *_three(constants))
    return Launch.of(device, VARIANTS["backward", name], (blocks_for(device, n, pack),), arguments)


def _three(constants: Constants) -> tuple[np.float32, ...]:
    return tuple(map(np.float32, (*constants, 0.0, 0.0, 0.0)[:3]))


class ActivationForm(DeviceForm):
    """One activation, in place or not. Backward reads what the layer's reads."""

    def __init__(self, nodes: Sequence[Node], mode: Mode, device: Device, name: str) -> None:
        super().__init__(nodes, device)
        self.keep_layout()
        self.variant = name
        self.activation = ACTIVATIONS[name]
        self.constants = self.activation.constants(self.node.layer)
        if not (mode.backward and self.needs_backward):
            self.saved = {}

    def forward(self, b: Buffers) -> Run | None:
        x, y = self.memory(b.bottoms[0]), self.memory(b.tops[0])
        kept = self.memory_if(b.saved.get(self.activation.keeps or ""))
        return prepare_forward(self.device, self.variant, x, y, self.constants, kept)

    def backward(self, b: Buffers) -> Run | None:
        keeps = self.activation.keeps
        x = self.memory(b.saved[keeps] if keeps else b.bottoms[0]) if self.activation.reads_x else None
        y = self.memory(b.tops[0]) if self.activation.reads_y else None
        dy, dx = self.memory(b.top_grads[0]), self.memory(b.bottom_grads[0])
        return prepare_backward(self.device, self.variant, x, y, dy, dx, self.constants)


class PReLU(DeviceForm):
    """The slope of each channel is learned; its gradient is summed up in two stages."""

    variant = "PReLU"

    def __init__(self, nodes: Sequence[Node], mode: Mode, device: Device) -> None:
        super().__init__(nodes, device)
        shape = self.inputs[0].shape
        shared = self.node.layer.options.channel_shared
        outer, inner = around_axis(shape, 1, self.keep_layout())
        axes = (1, 1, count(shape)) if shared else (outer, shape[1], inner)
        self.axes = axes[1:]
        self.sums = Sums.plan(device, "dy min(x, 0)", *axes)
        self.backward_workspace = self.sums.workspace
        if not (mode.backward and self.needs_backward):
            self.saved = {}

    def forward(self, b: Buffers) -> Run | None:
        x, slopes, y = map(self.memory, (b.bottoms[0], b.params[0], b.tops[0]))
        return prelu_forward(self.device, *self.axes, x, slopes, y, self.memory_if(b.saved.get("x")))

    def backward(self, b: Buffers) -> Run | None:
        x = self.memory(b.saved["x"] if "x" in b.saved else b.bottoms[0])
        dy, dslopes = self.memory(b.top_grads[0]), self.memory_if(b.param_grads[0])
        runs: list[Run | None] = []
        if dslopes is not None:
            shares = self.memory_if(b.workspace.get("shares"))
            runs.append(sum_channels(self.device, self.sums, dy, x, shares, dslopes))
        if b.bottom_grads[0] is not None:
            slopes, dx = self.memory(b.params[0]), self.memory(b.bottom_grads[0])
            runs.append(prelu_backward(self.device, *self.axes, x, slopes, dy, dx))
        return in_order(*runs)


def make_activation(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    node = nodes[0]
    name = "SeLU" if node.type == "SeLu" else node.type
    return ActivationForm(nodes, mode, device, name) if fits(nodes) else None


def make_elementary(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    """None for a power that is constant, and in place where a gradient is wanted: there Caffe's is the slope
    squared."""
    node, layer = nodes[0], nodes[0].layer
    if not fits(nodes) or (layer.runs_in_place and node.needs_backward):
        return None
    name = node.type
    if name == "Power":
        if layer.slope_scale == 0:  # type: ignore[attr-defined]
            return None
        name = POWERS.get(layer.power, name)  # type: ignore[attr-defined]
    return ActivationForm(nodes, mode, device, name)


def make_prelu(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    return PReLU(nodes, mode, device) if fits(nodes) else None


FORMS: dict[tuple[str, ...], Maker] = {
    **{(name,): make_activation for name in ACTIVATIONS if not name.startswith("Power")},
    ("SeLu",): make_activation,
    ("Log",): make_elementary,
    ("Power",): make_elementary,
    ("PReLU",): make_prelu,
}
