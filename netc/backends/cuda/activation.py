"""Activations on the device: the table of kernels/activation.cu, and their launches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netc.backends.cuda.device import Device
from netc.backends.cuda.elementwise import FLOAT_BYTES, PACKS, THREADS, blocks_for, pack_of
from netc.backends.cuda.kernel import Variant
from netc.backends.cuda.memory import Memory


@dataclass(frozen=True)
class Activation:
    """A structure of activation.cu by its layer type, and which of x and y its backward reads."""

    structure: str
    backward_reads_x: bool
    backward_reads_y: bool


ACTIVATIONS = {
    "ReLU": Activation("Relu", True, False),  # p: negative_slope
    "ReLU6": Activation("Relu6", True, False),  # p: negative_slope
    "Clip": Activation("Clip", True, False),  # p: min, q: max
    "ELU": Activation("Elu", True, True),  # p: alpha
    "Sigmoid": Activation("Sigmoid", False, True),
    "TanH": Activation("TanH", False, True),
    "BNLL": Activation("Bnll", True, False),
}


def _variant(direction: str, type_: str, pack: int) -> Variant:
    expression = f"activation_{direction}<{ACTIVATIONS[type_].structure}, {pack}>"
    return Variant(f"{type_} {direction} pack {pack}", "activation.cu", expression, THREADS)


VARIANTS = {
    (direction, type_, pack): _variant(direction, type_, pack)
    for direction in ("forward", "backward")
    for type_ in ACTIVATIONS
    for pack in PACKS
}


def forward(device: Device, type_: str, x: Memory, y: Memory, p: float = 0, q: float = 0) -> None:
    """y = f(x) over all floats of x; y may be x."""
    count, pack = x.nbytes // FLOAT_BYTES, pack_of(x, y)
    arguments = (np.int64(count), x, y, np.float32(p), np.float32(q))
    kernel = device.load(VARIANTS["forward", type_, pack])
    device.launch(kernel, (blocks_for(device, count, pack),), (THREADS,), arguments)


def backward(
    device: Device,
    type_: str,
    x: Memory | None,
    y: Memory | None,
    dy: Memory,
    dx: Memory,
    p: float = 0,
    q: float = 0,
) -> None:
    """dx = dy f'(x) over all floats of dy; dx may be dy. x or y may be None where it is not read."""
    count, pack = dy.nbytes // FLOAT_BYTES, pack_of(x, y, dy, dx)
    arguments = (np.int64(count), x, y, dy, dx, np.float32(p), np.float32(q))
    kernel = device.load(VARIANTS["backward", type_, pack])
    device.launch(kernel, (blocks_for(device, count, pack),), (THREADS,), arguments)
