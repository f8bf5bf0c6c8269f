"""Depthwise convolution on the device: the tables of kernels/depthwise.cu, the choice of rows, launches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from netc.backends.cuda.channel_sum import add_partials
from netc.backends.cuda.conv_shape import ConvKernels, ConvShape
from netc.backends.cuda.device import Argument, Device
from netc.backends.cuda.elementwise import THREADS
from netc.backends.cuda.kernel import Variant
from netc.backends.cuda.launch import Launch, one_after_another
from netc.backends.cuda.memory import Memory
from netc.backends.form import Run

# Kernel and stride, the same along both axes, that code is made for; a thread's results below each other.
SLID_ROWS = {(3, 1): 4, (3, 2): 4, (5, 1): 4, (5, 2): 2}
STRIDED = ((3, 2), (5, 2))
TAPS = 9  # weights of a block
BLOCKS_PER_PROCESSOR = 8
LEAST_CELLS = 16 * THREADS  # of a part of a channel

SLIDE = {
    (kernel, stride): Variant(
        f"depthwise {kernel}x{kernel}/{stride}",
        "depthwise.cu",
        f"depthwise_slide<{kernel}, {stride}, {rows}>",
        THREADS,
    )
    for (kernel, stride), rows in SLID_ROWS.items()
}
FORWARD = Variant("depthwise any", "depthwise.cu", "depthwise_forward", THREADS)
BACKWARD = {
    (kernel, stride): Variant(
        f"depthwise data {f'{kernel}x{kernel}/{stride}' if kernel else 'any'}",
        "depthwise.cu",
        f"depthwise_backward<{kernel}, {stride}>",
        THREADS,
    )
    for kernel, stride in (*STRIDED, (0, 0))
}
WEIGHTS = Variant("depthwise weights", "depthwise.cu", f"depthwise_weights<{TAPS}>", THREADS)
VARIANTS = (*SLIDE.values(), FORWARD, *BACKWARD.values(), WEIGHTS)


def square_of(shape: ConvShape) -> tuple[int, int] | None:
    """The kernel's side and the stride, where both axes have the same and the kernel has no gaps."""
    same = shape.r == shape.s and shape.stride[0] == shape.stride[1] and shape.dilation == (1, 1)
    return (shape.r, shape.stride[0]) if same else None


def forward(
    device: Device,
    shape: ConvShape,
    x: Memory,
    w: Memory,
    y: Memory,
    bias: Memory | None = None,
    slope: float = 1.0,
    workspace: Memory | None = None,
) -> Run:
    """Binds y = relu(w * x + bias)."""
    square, planes = square_of(shape), shape.n * shape.c
    if square in SLID_ROWS:
        sides = ((x, shape.h, shape.w), (y, shape.p, shape.q))
        return _slide(device, square, planes, shape.c, *sides, w, shape.pad, False, (bias, slope))
    arguments = (
        np.int32(shape.c),
        *_side(x, shape.h, shape.w),
        w,
        *_window(shape),
        *_side(y, shape.p, shape.q),
    )
    return _each(device, FORWARD, shape.y_count, (*arguments, bias, np.float32(slope)))


def backward_data(
    device: Device,
    shape: ConvShape,
    dy: Memory,
    w: Memory,
    dx: Memory,
    bias: Memory | None = None,
    slope: float = 1.0,
    workspace: Memory | None = None,
) -> Run:
    """Binds dx = relu(w turned * dy + bias)."""
    square, planes = square_of(shape), shape.n * shape.c
    if square in SLID_ROWS and shape.stride == (1, 1):
        sides = ((dy, shape.p, shape.q), (dx, shape.h, shape.w))
        pad = (shape.r - 1 - shape.pad[0], shape.s - 1 - shape.pad[1])
        return _slide(device, square, planes, shape.c, *sides, w, pad, True, (bias, slope))
    variant = BACKWARD[square if square in STRIDED else (0, 0)]
    arguments = (
        np.int32(shape.c),
        *_side(dy, shape.p, shape.q),
        w,
        *_window(shape),
        *_side(dx, shape.h, shape.w),
    )
    return _each(device, variant, shape.x_count, (*arguments, bias, np.float32(slope)))


def _slide(
    device: Device,
    square: tuple[int, int],
    planes: int,
    channels: int,
    source: tuple[Memory, int, int],
    target: tuple[Memory, int, int],
    w: Memory,
    pad: tuple[int, int],
    turned: bool,
    after: tuple[Memory | None, float],
) -> Run:
    """The launch of `depthwise_slide`; after: a bias, and the slope of a ReLU."""
    threads = planes * -(-target[1] // SLID_ROWS[square]) * target[2]
    arguments = (
        np.int32(channels),
        *_side(*source),
        w,
        np.bool_(turned),
        *map(np.int32, pad),
        *_side(*target),
    )
    return _each(device, SLIDE[square], threads, (*arguments, after[0], np.float32(after[1])))


def _side(memory: Memory, rows: int, columns: int) -> tuple[Argument, ...]:
    return memory, np.int32(rows), np.int32(columns)


def _window(shape: ConvShape) -> list[Argument]:
    return [np.int32(n) for n in (shape.r, shape.s, *shape.stride, *shape.pad, *shape.dilation)]


def _each(device: Device, variant: Variant, threads: int, arguments: Sequence[Argument]) -> Run:
    return Launch.of(device, variant, (-(-threads // THREADS),), (np.uint32(threads), *arguments))


def _parts(device: Device, shape: ConvShape) -> tuple[int, int]:
    """How many blocks share the cells of a channel's weights, and how many cells each takes."""
    cells, chunks = shape.n * shape.p * shape.q, -(-shape.taps // TAPS)
    wanted = -(-BLOCKS_PER_PROCESSOR * device.properties.processors // (shape.c * chunks))
    each = -(-cells // max(1, min(wanted, cells // LEAST_CELLS)))
    return -(-cells // each), each


def backward_weights(
    device: Device, shape: ConvShape, x: Memory, dy: Memory, dw: Memory, workspace: Memory | None = None
) -> Run:
    """Binds dw += dy * x."""
    (parts, each), plane = _parts(device, shape), shape.p * shape.q
    steps = [np.int32(n) for n in (THREADS // plane, THREADS % plane // shape.q, THREADS % shape.q)]
    arguments: list[Argument] = [np.uint32(shape.n * plane), np.uint32(each), np.int32(shape.c)]
    arguments += [*_side(x, shape.h, shape.w), *_side(dy, shape.p, shape.q), *_window(shape), *steps]
    arguments += [dw, workspace if parts > 1 else None]
    products = Launch.of(device, WEIGHTS, (shape.c, parts, -(-shape.taps // TAPS)), arguments)
    if workspace is None or parts == 1:
        return products
    return one_after_another(products, add_partials(device, shape.weight_count, parts, workspace, dw))


def no_floats(device: Device, shape: ConvShape) -> int:
    """The image kernels need no workspace."""
    return 0


def backward_weights_floats(device: Device, shape: ConvShape) -> int:
    """Room for the sums of each part, where there are several."""
    parts = _parts(device, shape)[0]
    return parts * shape.weight_count if parts > 1 else 0


KERNELS = ConvKernels(
    "depthwise", forward, backward_data, backward_weights, no_floats, no_floats, backward_weights_floats
)
