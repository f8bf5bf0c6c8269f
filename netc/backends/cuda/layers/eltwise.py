"""Eltwise on the device: the table of kernels/eltwise.cu, its launches, and the forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.device.form import DeviceForm, fits
from netc.backends.cuda.launching import Launch, in_order
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES, PACKS, THREADS, blocks_for, pack_of
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers
from netc.layer.base import count
from netc.proto import netc_pb2 as pb

MOST: Final = 8  # arrays at once
NO_RELU: Final = 1.0  # as a negative slope

VARIANTS = {
    name: Variant(name, "eltwise.cu", expression, THREADS)
    for name, expression in (
        ("sum", "combine<Sum, 8>"),
        ("product", "combine<Product, 8>"),
        ("spread_gradient", "spread_gradient<8>"),
        ("maximum", "maximum<8>"),
        ("maximum_gradient", "maximum_gradient<8>"),
        ("divide_gradient", "divide_gradient<4>"),
    )
}
Targets = Sequence[Memory | None]


def add(
    device: Device,
    x: Sequence[Memory],
    y: Memory,
    coefficients: Sequence[float] | None = None,
    slope: float = NO_RELU,
) -> Run | None:
    """y = relu(c0 x0 + c1 x1 + ...), in the order given; coefficients are 1 unless stated. y may be one of x.

    slope: what becomes of negative sums; 1 leaves them alone.
    """
    coefficients = list(coefficients or [1.0] * len(x))
    runs, done = [], 0
    while done < len(x):
        carried = [(y, 1.0)] if done else []
        terms = [*carried, *zip(x[done:], coefficients[done:], strict=True)][:MOST]
        done += len(terms) - len(carried)
        last = done == len(x)
        runs.append(_combine(device, "sum", terms, y, slope if last else NO_RELU))
    return in_order(*runs)


def multiply(device: Device, x: Sequence[Memory], y: Memory) -> Run | None:
    """y = x0 x1 ..., in the order given. y may be x0."""
    runs, done = [], 0
    while done < len(x):
        factors = [*([y] if done else []), *x[done:]][:MOST]
        done += len(factors) - (done > 0)
        runs.append(_combine(device, "product", [(factor, 1.0) for factor in factors], y, NO_RELU))
    return in_order(*runs)


def _combine(
    device: Device, name: str, terms: Sequence[tuple[Memory, float]], y: Memory, slope: float
) -> Run:
    sources = [memory for memory, _ in terms]
    coefficients = _floats([coefficient for _, coefficient in terms])
    arguments = (*_sizes(y, *sources), np.int32(len(terms)), *_eight(sources), *coefficients, y)
    return _prepare(device, name, y, (*arguments, np.float32(slope)))


def spread_gradient(
    device: Device,
    dy: Memory,
    dx: Targets,
    coefficients: Sequence[float],
    y: Memory | None = None,
    slope: float = NO_RELU,
) -> Run | None:
    """dx_k = c_k dy for each array that is given; times the slope at y of the ReLU that made y, if any."""
    runs = []
    for start in range(0, len(dx), MOST):
        part = slice(start, start + MOST)
        if any(target is not None for target in dx[part]):
            pointers, factors = _eight(dx[part]), _floats(coefficients[part])
            arguments = (*_sizes(dy, y, *dx[part]), dy, y, np.float32(slope), *pointers, *factors)
            runs.append(_prepare(device, "spread_gradient", dy, arguments))
    return in_order(*runs)


def maximum(device: Device, x: Sequence[Memory], y: Memory, winner: Memory) -> Run:
    """y = max(x0, x1, ...) of 2 to 8 arrays; winner: a byte for each element, the number of its array."""
    arguments = (*_sizes(y, *x, bytes_too=winner), np.int32(len(x)), *_eight(x), y, winner)
    return _prepare(device, "maximum", y, arguments)


def maximum_gradient(device: Device, dy: Memory, winner: Memory, dx: Targets) -> Run:
    """dx_k = dy where array k was the maximum, else 0, for each array that is given."""
    arguments = (*_sizes(dy, *dx, bytes_too=winner), dy, winner, *_eight(dx))
    return _prepare(device, "maximum_gradient", dy, arguments)


def divide_gradient(device: Device, dy: Memory, y: Memory, x: Memory, dx: Memory) -> Run:
    """dx = dy y / x."""
    return _prepare(device, "divide_gradient", dy, (*_sizes(dy, y, x, dx), dy, y, x, dx))


def _sizes(first: Memory, *others: Memory | None, bytes_too: Memory | None = None) -> tuple[Argument, ...]:
    """The number of elements, and whether all addresses allow packs."""
    packed = pack_of(first, *others) > 1 and (bytes_too is None or bytes_too.address % PACKS[0] == 0)
    return np.int64(first.nbytes // FLOAT_BYTES), np.bool_(packed)


def _eight(memories: Targets) -> tuple[Memory | None, ...]:
    return (*memories, *[None] * (MOST - len(memories)))


def _floats(values: Sequence[float]) -> tuple[np.float32, ...]:
    return tuple(map(np.float32, (*values, *[0.0] * (MOST - len(values)))))


def _prepare(device: Device, name: str, sized: Memory, arguments: Sequence[Argument]) -> Run:
    pack = PACKS[0] if arguments[1] else PACKS[1]
    blocks = blocks_for(device, sized.nbytes // FLOAT_BYTES, pack)
    return Launch.of(device, VARIANTS[name], (blocks,), arguments)


class Sum(DeviceForm):
    """The sum of the bottoms, and the ReLU that may follow it."""

    variant = "sum"

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        super().__init__(nodes, device)
        self.keep_layout()
        first = nodes[0].layer
        self.coefficients: list[float] = first.coefficients  # type: ignore[attr-defined]
        self.slope = NO_RELU
        if len(nodes) > 1:
            self.variant = "sum, ReLU"
            self.slope = nodes[1].layer.options.negative_slope
            self.backward_tops = (0,)
        self.skipped = 1 if first.runs_in_place else 0  # in place bottom 0 drops out

    def forward(self, b: Buffers) -> Run | None:
        x = [self.memory(array) for array in b.bottoms]
        kept = slice(self.skipped, None)
        return add(self.device, x[kept], self.memory(b.tops[0]), self.coefficients[kept], self.slope)

    def backward(self, b: Buffers) -> Run | None:
        dx = [self.memory_if(grad) for grad in b.bottom_grads]
        y = self.memory(b.tops[0]) if len(self.nodes) > 1 else None
        return spread_gradient(self.device, self.memory(b.top_grads[0]), dx, self.coefficients, y, self.slope)

    def flops(self) -> int:
        return (2 * len(self.inputs) - 1) * count(self.outputs[0].shape)


class Product(DeviceForm):
    """The product of the bottoms."""

    variant = "product"

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        super().__init__(nodes, device)
        self.keep_layout()

    def forward(self, b: Buffers) -> Run | None:
        return multiply(self.device, [self.memory(x) for x in b.bottoms], self.memory(b.tops[0]))

    def backward(self, b: Buffers) -> Run | None:
        dy, y = self.memory(b.top_grads[0]), b.tops[0]
        x = [self.memory(bottom) for bottom in b.bottoms]
        runs: list[Run | None] = []
        for i, grad in enumerate(b.bottom_grads):
            if grad is None:
                continue
            if self.node.layer.options.stable_prod_grad:
                others = [factor for j, factor in enumerate(x) if j != i]
                runs.append(multiply(self.device, [*others, dy], self.memory(grad)))
            else:
                runs.append(divide_gradient(self.device, dy, self.memory(y), x[i], self.memory(grad)))
        return in_order(*runs)

    def flops(self) -> int:
        return (len(self.inputs) - 1) * count(self.outputs[0].shape)


class Maximum(DeviceForm):
    """The maximum of the bottoms."""

    variant = "maximum"

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        super().__init__(nodes, device)
        self.keep_layout()

    def forward(self, b: Buffers) -> Run | None:
        x = [self.memory(bottom) for bottom in b.bottoms]
        return maximum(self.device, x, self.memory(b.tops[0]), self.memory(b.saved["winner"]))

    def backward(self, b: Buffers) -> Run | None:
        dx = [self.memory_if(grad) for grad in b.bottom_grads]
        dy, winner = self.memory(b.top_grads[0]), self.memory(b.saved["winner"])
        return maximum_gradient(self.device, dy, winner, dx)


OPERATIONS = {
    pb.EltwiseParameter.SUM: Sum,
    pb.EltwiseParameter.PROD: Product,
    pb.EltwiseParameter.MAX: Maximum,
}


def make_eltwise(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    """None in place where gradients are wanted, which Caffe writes one over another there; and for a maximum
    of more than 8 bottoms, or in place."""
    layer = nodes[0].layer
    form = OPERATIONS[layer.operation]  # type: ignore[attr-defined]
    if not fits(nodes) or (layer.runs_in_place and nodes[0].needs_backward):
        return None
    if form is Maximum and (len(nodes[0].inputs) > MOST or layer.runs_in_place):
        return None
    return form(nodes, device)


def make_eltwise_relu(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    """None where the slope cannot be told from the ReLU's output."""
    relu = nodes[1].layer
    if nodes[0].layer.operation != pb.EltwiseParameter.SUM:  # type: ignore[attr-defined]
        return None
    if relu.options.negative_slope < 0 or not (
        relu.runs_in_place or not nodes[1].outputs[0].is_overwritten()
    ):
        return None
    return make_eltwise(nodes, mode, device)


FORMS: dict[tuple[str, ...], Maker] = {
    ("Eltwise",): make_eltwise,
    ("Eltwise", "ReLU"): make_eltwise_relu,
}
