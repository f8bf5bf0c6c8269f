"""Depthwise convolution on the device: the tables of kernels/depthwise.cu, the choice of rows, launches; what
runs a direction in either layout."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.convolution import depthwise_last
from netc.backends.cuda.convolution.channel_sum import add_partials
from netc.backends.cuda.convolution.shape import ConvShape, pieces
from netc.backends.cuda.convolution.work import Candidate, Filters, Images, workspace_of
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.launching import Launch, in_order
from netc.backends.cuda.launching.elementwise import THREADS
from netc.backends.form import NHWC, PLAIN, Run

# Kernel and stride, the same along both axes, that code is made for; a thread's results below each other.
SLID_ROWS = {(3, 1): 4, (3, 2): 4, (5, 1): 4, (5, 2): 2}
STRIDED = ((3, 2), (5, 2))
ANY = (0, 0)
FAMILY = "depthwise"
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
FORWARD = Variant("depthwise any", "depthwise.cu", "depthwise_forward<>", THREADS)
BACKWARD = {
    (kernel, stride): Variant(
        f"depthwise data {f'{kernel}x{kernel}/{stride}' if kernel else 'any'}",
        "depthwise.cu",
        f"depthwise_backward<{kernel}, {stride}>",
        THREADS,
    )
    for kernel, stride in (*STRIDED, ANY)
}
WEIGHTS = Variant("depthwise weights", "depthwise.cu", f"depthwise_weights<{TAPS}>", THREADS)
VARIANTS = (*SLIDE.values(), FORWARD, *BACKWARD.values(), WEIGHTS)


def bind_images(device: Device, shape: ConvShape, work: Images, backward: bool) -> Run:
    """Binds y = relu(w * x + bias), or backward from y to x."""
    square = shape.square
    if square in SLID_ROWS and not (backward and square in STRIDED):
        return _slide(device, shape, work, square, backward)
    source, target = shape.x_sizes[1:], shape.y_sizes[1:]
    variant, threads = FORWARD, shape.y_count
    if backward:
        source, target = target, source
        variant, threads = BACKWARD[square if square in STRIDED else ANY], shape.x_count
    arguments: list[Argument] = [np.int32(shape.c), *_side(work.source, source), work.w, *_window(shape)]
    return _each(device, variant, threads, [*arguments, *_side(work.target, target)], work)


def _slide(device: Device, shape: ConvShape, work: Images, square: tuple[int, int], backward: bool) -> Run:
    """Binds `depthwise_slide`; backward, which is without a stride, it slides the filters turned."""
    source, target, pad = shape.x_sizes[1:], shape.y_sizes[1:], shape.pad
    if backward:
        source, target = target, source
        pad = (shape.r - 1 - pad[0], shape.s - 1 - pad[1])
    threads = shape.n * shape.c * pieces(target[0], SLID_ROWS[square]) * target[1]
    arguments: list[Argument] = [np.int32(shape.c), *_side(work.source, source), work.w, np.bool_(backward)]
    arguments += [*map(np.int32, pad), *_side(work.target, target)]
    return _each(device, SLIDE[square], threads, arguments, work)


def _side(memory: Memory, sizes: Sequence[int]) -> list[Argument]:
    """Images, and their height and width."""
    return [memory, *map(np.int32, sizes)]


def _window(shape: ConvShape) -> list[Argument]:
    return [*map(np.int32, (shape.r, shape.s, *shape.stride, *shape.pad, *shape.dilation))]


def _each(device: Device, variant: Variant, threads: int, arguments: Sequence[Argument], work: Images) -> Run:
    return Launch.of(
        device, variant, (pieces(threads, THREADS),), (np.uint32(threads), *arguments, *work.ending)
    )


def _parts(device: Device, shape: ConvShape) -> tuple[int, int]:
    """How many blocks share the cells of a channel's weights, and how many cells each takes."""
    cells, chunks = shape.n * shape.p * shape.q, pieces(shape.taps, TAPS)
    wanted = pieces(BLOCKS_PER_PROCESSOR * device.properties.processors, shape.c * chunks)
    each = pieces(cells, max(1, min(wanted, cells // LEAST_CELLS)))
    return pieces(cells, each), each


def bind_filters(device: Device, shape: ConvShape, work: Filters) -> Run:
    """Binds dw += dy * x."""
    (parts, each), plane = _parts(device, shape), shape.p * shape.q
    steps = (THREADS // plane, THREADS % plane // shape.q, THREADS % shape.q)
    arguments: list[Argument] = [np.uint32(shape.n * plane), np.uint32(each), np.int32(shape.c)]
    arguments += [*_side(work.x, shape.x_sizes[1:]), *_side(work.dy, shape.y_sizes[1:])]
    arguments += [*_window(shape), *map(np.int32, steps)]
    sums = workspace_of(work, parts * shape.weight_count) if parts > 1 else None
    grid = (shape.c, parts, pieces(shape.taps, TAPS))
    products = Launch.of(device, WEIGHTS, grid, [*arguments, work.dw, sums])
    if sums is None:
        return products
    return in_order(products, add_partials(device, shape.weight_count, parts, sums, work.dw))


def candidate(direction: str, device: Device, shape: ConvShape, layout: str = PLAIN) -> Candidate:
    """What runs a direction where images lie so."""
    if layout == NHWC:
        return depthwise_last.candidate(FAMILY, direction, device, shape)
    if direction == "backward_weights":
        parts = _parts(device, shape)[0]
        return Candidate(FAMILY, FAMILY, bind_filters, parts * shape.weight_count if parts > 1 else 0)
    return Candidate(FAMILY, FAMILY, partial(bind_images, backward=direction == "backward_data"))
