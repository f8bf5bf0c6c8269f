"""Sums channel by channel, and of partial sums: the tables of kernels/channel_sum.cu, and the launches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netc.backends.cuda.device import Argument, Device
from netc.backends.cuda.elementwise import PACKS, THREADS, blocks_for, pack_of
from netc.backends.cuda.kernel import Variant
from netc.backends.cuda.launch import Launch, in_order
from netc.backends.cuda.memory import Memory
from netc.backends.form import Run

BLOCKS_PER_PROCESSOR = 8
LEAST_CELLS = 16 * THREADS  # of a part of a channel

ADD_PARTIALS = {
    pack: Variant(f"add_partials pack {pack}", "channel_sum.cu", f"add_partials<{pack}>", THREADS)
    for pack in PACKS
}
SUM_CHANNELS = {
    (mask, pack): Variant(
        f"sum_channels {'masked ' if mask else ''}pack {pack}",
        "channel_sum.cu",
        f"sum_channels<{str(mask).lower()}, {pack}>",
        THREADS,
    )
    for mask in (False, True)
    for pack in PACKS
}
VARIANTS = (*ADD_PARTIALS.values(), *SUM_CHANNELS.values())


@dataclass(frozen=True)
class Relu:
    """What a ReLU's backward pass reads and writes: its top, its bottom's gradient (perhaps its top's), its
    negative slope."""

    y: Memory
    dx: Memory
    slope: float


def add_partials(device: Device, count: int, parts: int, partials: Memory, y: Memory) -> Run:
    """Binds y += the sum over the parts of partials (parts, count)."""
    pack = pack_of(partials, y) if count % PACKS[0] == 0 else 1
    arguments = (np.int64(count), np.int32(parts), partials, y)
    return Launch.of(device, ADD_PARTIALS[pack], (blocks_for(device, count, pack),), arguments)


def _channel_parts(device: Device, images: int, channels: int, plane: int) -> tuple[int, int]:
    """How many blocks share a channel of (images, channels, plane), and how many cells each takes."""
    cells = images * plane
    wanted = -(-BLOCKS_PER_PROCESSOR * device.properties.processors // channels)
    parts = max(1, min(wanted, cells // LEAST_CELLS))
    each = -(-cells // parts)
    each = -(-each // PACKS[0]) * PACKS[0]
    return -(-cells // each), each


def channel_sum_floats(device: Device, images: int, channels: int, plane: int) -> int:
    """Workspace of `sum_channels`, in floats; 0 for none."""
    parts = _channel_parts(device, images, channels, plane)[0]
    return parts * channels if parts > 1 else 0


def sum_channels(
    device: Device,
    sizes: tuple[int, int, int],
    dy: Memory,
    dbias: Memory | None,
    relu: Relu | None = None,
    workspace: Memory | None = None,
) -> Run:
    """Binds dbias += the sums of dy (images, channels, plane) over images and planes.

    With a ReLU the sums are those of its bottom's gradient, which is written as well; dbias may be None then.
    """
    images, channels, plane = sizes
    parts, each = _channel_parts(device, images, channels, plane)
    y, masked, slope = (relu.y, relu.dx, relu.slope) if relu else (None, None, 1.0)
    pack = pack_of(dy, y, masked) if plane % PACKS[0] == 0 else 1
    partials = workspace if parts > 1 and dbias is not None else None
    packs, packs_each, plane_packs = (np.uint32(cells // pack) for cells in (images * plane, each, plane))
    arguments: list[Argument] = [packs, packs_each, np.int32(channels), plane_packs]
    arguments += [y, dy, masked, np.float32(slope), dbias, partials]
    variant = SUM_CHANNELS[relu is not None, pack]
    summed = Launch.of(device, variant, (channels, parts), arguments)
    if partials is None or dbias is None:
        return summed
    return in_order(summed, add_partials(device, channels, parts, partials, dbias))
