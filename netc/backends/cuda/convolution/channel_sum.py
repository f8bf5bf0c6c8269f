"""SumWork channel by channel, and of partial sums: the tables of kernels/channel_sum.cu, and the launches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.launching import Launch, in_order
from netc.backends.cuda.launching.channels_last import REDUCING_BLOCKS, Columns
from netc.backends.cuda.launching.elementwise import PACKS, THREADS, blocks_for, pack_of
from netc.backends.form import Run

BLOCKS_PER_PROCESSOR = 8
LEAST_CELLS = 16 * THREADS  # of a part of a channel
LEAST_STEPS = 8  # of a thread over the rows, where the channels of a cell lie side by side

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
SUM_LAST = {
    (mask, pack): Variant(
        f"sum_channels_last {'masked ' if mask else ''}pack {pack}",
        "channel_sum.cu",
        f"sum_channels_last<{str(mask).lower()}, {pack}>",
        THREADS,
    )
    for mask, pack in SUM_CHANNELS
}
VARIANTS = (*ADD_PARTIALS.values(), *SUM_CHANNELS.values(), *SUM_LAST.values())


@dataclass(frozen=True)
class Relu:
    """What a ReLU's backward pass reads and writes: its top, its bottom's gradient (perhaps its top's), its
    negative slope."""

    y: Memory
    dx: Memory
    slope: float


@dataclass(frozen=True)
class SumWork:
    """What a kernel is given: the numbers and a ReLU that they go through; what the sums are added to, or
    where each part leaves its own."""

    dy: Memory
    relu: Relu | None = None
    dbias: Memory | None = None
    partials: Memory | None = None

    @property
    def pack(self) -> int:
        """The most numbers that can be taken at once."""
        return pack_of(self.dy, *((self.relu.y, self.relu.dx) if self.relu else ()))

    @property
    def arguments(self) -> list[Argument]:
        """As both kernels take them."""
        y, masked, slope = (self.relu.y, self.relu.dx, self.relu.slope) if self.relu else (None, None, 1.0)
        return [y, self.dy, masked, np.float32(slope), self.dbias, self.partials]


def add_partials(device: Device, count: int, parts: int, partials: Memory, y: Memory) -> Run:
    """Binds y += the sum over the parts of partials (parts, count)."""
    pack = pack_of(partials, y) if count % PACKS[0] == 0 else 1
    arguments = (np.int64(count), np.int32(parts), partials, y)
    return Launch.of(device, ADD_PARTIALS[pack], (blocks_for(device, count, pack),), arguments)


def _parts(device: Device, images: int, channels: int, plane: int) -> int:
    """How many blocks share a channel, or a tile of channels, of (images, channels, plane)."""
    processors = device.properties.processors
    if plane == 1:
        return Columns.of(channels).shares(processors, images, REDUCING_BLOCKS, LEAST_STEPS)
    wanted = -(-BLOCKS_PER_PROCESSOR * processors // channels)
    cells = images * plane
    return -(-cells // _cells_each(cells, max(1, min(wanted, cells // LEAST_CELLS))))


def _cells_each(cells: int, parts: int) -> int:
    """How many cells of a channel a part takes."""
    return -(-cells // parts // PACKS[0]) * PACKS[0]


def channel_sum_floats(device: Device, images: int, channels: int, plane: int) -> int:
    """Workspace of `sum_channels`, in floats; 0 for none."""
    parts = _parts(device, images, channels, plane)
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

    Where the channels of a cell lie side by side, the images are all cells and the plane is 1. With a ReLU
    the sums are those of its bottom's gradient, which is written as well; dbias may be None then.
    """
    parts, channels = _parts(device, *sizes), sizes[1]
    bind = _sum_last if sizes[2] == 1 else _sum_planes
    if parts == 1 or dbias is None:
        return bind(device, sizes, parts, SumWork(dy, relu, dbias))
    assert workspace is not None
    summed = bind(device, sizes, parts, SumWork(dy, relu, dbias, workspace))
    if sizes[2] == 1:
        return in_order(summed, _sum_last(device, (parts, channels, 1), 1, SumWork(workspace, dbias=dbias)))
    return in_order(summed, add_partials(device, channels, parts, workspace, dbias))


def _sum_planes(device: Device, sizes: tuple[int, int, int], parts: int, work: SumWork) -> Run:
    images, channels, plane = sizes
    pack = work.pack if plane % PACKS[0] == 0 else 1
    cells = images * plane
    packs = (np.uint32(number // pack) for number in (cells, _cells_each(cells, parts), plane))
    total, each, of_plane = packs
    arguments = [total, each, np.int32(channels), of_plane, *work.arguments]
    return Launch.of(device, SUM_CHANNELS[work.relu is not None, pack], (channels, parts), arguments)


def _sum_last(device: Device, sizes: tuple[int, int, int], parts: int, work: SumWork) -> Run:
    rows, channels, _ = sizes
    columns = Columns.of(channels, work.pack)
    arguments = [np.int32(rows), np.int32(channels), np.int32(columns.lanes), *work.arguments]
    variant = SUM_LAST[work.relu is not None, columns.pack]
    return Launch.of(device, variant, (columns.tiles, parts), arguments)
