"""Depthwise convolution where channels lie side by side: the table of kernels/depthwise_last.cu, launches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.convolution.channel_sum import add_partials
from netc.backends.cuda.convolution.shape import ConvShape, pieces
from netc.backends.cuda.convolution.work import Candidate, Filters, Images, workspace_of
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.launching import Launch, in_order
from netc.backends.cuda.launching.channels_last import REDUCING_BLOCKS, Columns
from netc.backends.cuda.launching.division import divisor
from netc.backends.cuda.launching.elementwise import PACKS, THREADS, pack_of
from netc.backends.form import Run

# By kernel and stride, the same along both axes, that code is made for: a thread's results below each other
# and its channels, as many as there are registers for their weights.
SLID = {(3, 1): (4, 4), (3, 2): (2, 4), (5, 1): (4, 2), (5, 2): (2, 2), (7, 1): (4, 1)}
SPREAD = {(3, 2): 4, (4, 2): 2, (5, 2): 2}  # channels
TAPS = 9  # weights of a block
BLOCKS_PER_PROCESSOR = 8  # which each bring weights into shared memory, before they go over places
LEAST_STEPS = 16  # of a block that leaves sums to be added up

SLIDE = {
    square: Variant(
        f"depthwise last {square[0]}x{square[0]}/{square[1]}",
        "depthwise_last.cu",
        f"depthwise_last_slide<{square[0]}, {square[1]}, {rows}, {pack}>",
        THREADS,
    )
    for square, (rows, pack) in SLID.items()
}
SPREADING = {
    square: Variant(
        f"depthwise last data {square[0]}x{square[0]}/{square[1]}",
        "depthwise_last.cu",
        f"depthwise_last_spread<{square[0]}, {square[1]}, {pack}>",
        THREADS,
    )
    for square, pack in SPREAD.items()
}
ANY = {
    False: Variant("depthwise last any", "depthwise_last.cu", "depthwise_last_forward<>", THREADS),
    True: Variant("depthwise last data any", "depthwise_last.cu", "depthwise_last_backward<>", THREADS),
}
WEIGHTS = {
    pack: Variant(
        f"depthwise last weights pack {pack}",
        "depthwise_last.cu",
        f"depthwise_last_weights<{TAPS}, {pack}>",
        THREADS,
    )
    for pack in PACKS
}
VARIANTS = (*SLIDE.values(), *SPREADING.values(), *ANY.values(), *WEIGHTS.values())


def bind_images(device: Device, shape: ConvShape, work: Images, backward: bool) -> Run:
    """Binds y = relu(w * x + bias), or backward from y to x."""
    square = shape.square
    if backward and square in SPREAD and not work.ends_long and _goes_in(shape, SPREAD[square], work):
        return _spread(device, shape, work, square)
    if square in SLID and (not backward or square[1] == 1) and _goes_in(shape, SLID[square][1], work):
        return _slide(device, shape, work, square, backward)
    source, target = _sides(shape, backward)
    arguments = [*_side(work.source, source), work.w, *_window(shape), *_side(work.target, target)]
    return _each(device, ANY[backward], shape, 1, target, arguments, work)


def _goes_in(shape: ConvShape, pack: int, work: Images) -> bool:
    """Whether packs of so many channels can be loaded and stored."""
    return shape.c % pack == 0 and pack <= pack_of(work.source, work.target, work.residual)


def _sides(shape: ConvShape, backward: bool) -> tuple[Sequence[int], Sequence[int]]:
    """Height and width of what is read and of what is written."""
    x, y = shape.x_sizes[1:], shape.y_sizes[1:]
    return (y, x) if backward else (x, y)


def _slide(device: Device, shape: ConvShape, work: Images, square: tuple[int, int], backward: bool) -> Run:
    """Binds `depthwise_last_slide`; backward, which is without a stride, it slides the filters turned."""
    (source, target), (rows, pack) = _sides(shape, backward), SLID[square]
    pad = (shape.r - 1 - shape.pad[0], shape.s - 1 - shape.pad[1]) if backward else shape.pad
    arguments: list[Argument] = [*_side(work.source, source), work.w, np.bool_(backward)]
    arguments += [*map(np.int32, pad), *_side(work.target, target)]
    return _each(device, SLIDE[square], shape, pack, (pieces(target[0], rows), target[1]), arguments, work)


def _spread(device: Device, shape: ConvShape, work: Images, square: tuple[int, int]) -> Run:
    """Binds `depthwise_last_spread`."""
    source, target = _sides(shape, True)
    stride = square[1]
    first = [pad // stride for pad in shape.pad]
    places = [
        (size - 1 + pad) // stride - start + 1
        for size, pad, start in zip(target, shape.pad, first, strict=True)
    ]
    arguments: list[Argument] = [*_side(work.source, source), work.w, *map(np.int32, (*shape.pad, *first))]
    arguments += _side(work.target, target)
    return _each(device, SPREADING[square], shape, SPREAD[square], places, arguments, work)


def _side(memory: Memory, sizes: Sequence[int]) -> list[Argument]:
    """Images, and their height and width."""
    return [memory, *map(np.int32, sizes)]


def _window(shape: ConvShape) -> list[Argument]:
    return [*map(np.int32, (shape.r, shape.s, *shape.stride, *shape.pad, *shape.dilation))]


def _each(
    device: Device,
    variant: Variant,
    shape: ConvShape,
    pack: int,
    plane: Sequence[int],
    arguments: Sequence[Argument],
    work: Images,
) -> Run:
    """Binds a kernel that goes over all places of planes (down, across)."""
    columns, (down, across) = Columns.of(shape.c, pack), plane
    places = shape.n * down * across
    shares = columns.shares(device.properties.processors, places, BLOCKS_PER_PROCESSOR)
    sizes = (np.uint32(places), *divisor(down), *divisor(across), np.int32(columns.lanes), np.int32(shape.c))
    return Launch.of(device, variant, (columns.tiles, shares), (*sizes, *arguments, *work.ending))


def _parts(device: Device, shape: ConvShape, columns: Columns) -> tuple[int, int]:
    """How many blocks share the cells of a channel's weights, and how many cells each takes."""
    cells, chunks = shape.n * shape.p * shape.q, pieces(shape.taps, TAPS)
    blocks = pieces(REDUCING_BLOCKS, chunks)
    each = pieces(cells, columns.shares(device.properties.processors, cells, blocks, LEAST_STEPS))
    return pieces(cells, each), each


def bind_filters(device: Device, shape: ConvShape, work: Filters) -> Run:
    """Binds dw += dy * x."""
    columns = Columns.of(shape.c, pack_of(work.x, work.dy))
    (parts, each), plane, step = _parts(device, shape, columns), shape.p * shape.q, columns.lines
    steps = (step // plane, step % plane // shape.q, step % shape.q)
    arguments: list[Argument] = [np.uint32(shape.n * plane), np.uint32(each)]
    arguments += [np.int32(columns.lanes), np.int32(shape.c)]
    arguments += [*_side(work.x, shape.x_sizes[1:]), *_side(work.dy, shape.y_sizes[1:])]
    arguments += [*_window(shape), *map(np.int32, steps)]
    sums = workspace_of(work, parts * shape.weight_count) if parts > 1 else None
    grid = (columns.tiles, parts, pieces(shape.taps, TAPS))
    products = Launch.of(device, WEIGHTS[columns.pack], grid, [*arguments, work.dw, sums])
    if sums is None:
        return products
    return in_order(products, add_partials(device, shape.weight_count, parts, sums, work.dw))


def candidate(family: str, direction: str, device: Device, shape: ConvShape) -> Candidate:
    """What runs a direction."""
    name = f"{family} last"
    if direction == "backward_weights":
        # Which packs there will be hangs on memory that nobody has seen yet.
        parts = max(_parts(device, shape, Columns.of(shape.c, pack))[0] for pack in PACKS)
        return Candidate(family, name, bind_filters, parts * shape.weight_count if parts > 1 else 0)
    return Candidate(family, name, partial(bind_images, backward=direction == "backward_data"))
