"""Batch normalisation on the device: the tables of kernels/bn.cu and bn_last.cu, and their launches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.launching import Launch
from netc.backends.cuda.launching.channels_last import REDUCING_BLOCKS as REDUCING_BLOCKS_LAST
from netc.backends.cuda.launching.channels_last import SWEEPING_BLOCKS, Columns
from netc.backends.cuda.launching.division import divisor
from netc.backends.cuda.launching.elementwise import PACKS, THREADS, blocks_for, pack_of
from netc.backends.form import Run

WARP = 32
NARROW_CELLS = 8  # images with fewer cells are reduced by 32 channels at a time
REDUCING_BLOCKS = 8  # of a processor, all of which are there at once
LEAST_PACKS = 4  # of a thread, before a channel is split into more parts
MOMENTS = 3  # numbers of a part: count, mean, squared distances from it
NUMBERS = {"Moments": MOMENTS, "Gradients": 2}  # of a partial sum
CHANNEL = SLOPES = 4  # floats of kernels/bn.cu's structures


def _reduce(sums: str, pack: int, narrow: bool) -> Variant:
    name = f"bn_reduce {sums} {'narrow' if narrow else f'pack {pack}'}"
    return Variant(name, "bn.cu", f"bn_reduce<{sums}, {pack}, {str(narrow).lower()}>", THREADS)


REDUCE = {
    (sums, pack, narrow): _reduce(sums, pack, narrow)
    for sums in NUMBERS
    for pack, narrow in (*((pack, False) for pack in PACKS), (1, True))
}
LAST = {  # where the channels of a cell lie side by side
    **{f"bn_reduce_last {sums}": f"bn_reduce_last<{sums}, " for sums in NUMBERS},
    **{f"{kernel}_last": f"{kernel}_last<" for kernel in ("bn_apply", "bn_apply_backward")},
}
VARIANTS: dict[Any, Variant] = {
    **REDUCE,
    **{
        (kernel, pack): Variant(f"{kernel} pack {pack}", "bn.cu", f"{kernel}<{pack}>", THREADS)
        for kernel in ("bn_apply", "bn_apply_backward")
        for pack in PACKS
    },
    **{
        (name, pack): Variant(f"{name} pack {pack}", "bn_last.cu", f"{kernel}{pack}>", THREADS)
        for name, kernel in LAST.items()
        for pack in PACKS
    },
    **{
        kernel: Variant(kernel, "bn.cu", f"{kernel}<>", THREADS)
        for kernel in ("bn_finish", "bn_finish_backward", "bn_fold")
    },
}


@dataclass(frozen=True)
class Cells:
    """(N, C, cells), and in how many parts the elements of a channel are reduced.

    Where the channels of a cell lie side by side, the images are all cells, and each has one.
    """

    images: int
    channels: int
    cells: int
    parts: int

    @property
    def size(self) -> int:
        return self.images * self.channels * self.cells

    @property
    def of_channel(self) -> int:
        return self.images * self.cells

    @property
    def narrow(self) -> bool:
        return 1 < self.cells < NARROW_CELLS

    @property
    def last(self) -> bool:
        """Whether the channels of a cell lie side by side."""
        return self.cells == 1


def cells_of(images: int, channels: int, cells: int, processors: int) -> Cells:
    """With so many parts that all processors have work, and each part is worth its block."""
    if cells == 1:
        parts = Columns.of(channels).shares(processors, images, REDUCING_BLOCKS_LAST, LEAST_PACKS)
        return Cells(images, channels, cells, parts)
    most = REDUCING_BLOCKS * processors
    if cells < NARROW_CELLS:
        blocks, longest = -(-channels // WARP), -(-images * WARP // THREADS)
    else:
        blocks, longest = channels, -(-images * cells // (THREADS * LEAST_PACKS * PACKS[0]))
    return Cells(images, channels, cells, max(1, min(-(-most // blocks), longest, images * cells)))


@dataclass(frozen=True)
class Running:
    """The running statistics, and how a batch's are taken in: `keep` times themselves plus `add` times those.

    unbias: what the batch's variance is multiplied by; weight: the number that Caffe's are divided by.
    """

    mean: Memory
    variance: Memory
    weight: Memory | None
    keep: float
    add: float
    unbias: float


@dataclass(frozen=True)
class Gradients:
    """dy, and what tells the ReLU's side: the channels' numbers with x, or y where there is a residual."""

    dy: Memory
    channels: Memory
    slope: float = 1
    y: Memory | None = None


def reduce(
    device: Device,
    sums: str,
    cells: Cells,
    x: Memory | None,
    partial: Memory,
    gradients: Gradients | None = None,
) -> Run:
    """The "Moments" of x, or the "Gradients" from dy, of every part: C x parts x NUMBERS[sums] floats."""
    y, dy, channels, slope = (g.y, g.dy, g.channels, g.slope) if (g := gradients) else (None, None, None, 1)
    last = (x, y, dy, channels, np.float32(slope), partial)
    if cells.last:
        return _launch_last(device, f"bn_reduce_last {sums}", cells, pack_of(x, y, dy), cells.parts, last)
    pack = pack_of(x, y, dy) if cells.cells % PACKS[0] == 0 and not cells.narrow else 1
    blocks = -(-cells.channels // WARP) if cells.narrow else cells.channels
    sizes = (np.int32(cells.images), np.int32(cells.channels), np.int32(cells.cells))
    return Launch.of(device, REDUCE[sums, pack, cells.narrow], (blocks, cells.parts), (*sizes, *last))


def finish(
    device: Device,
    cells: Cells,
    partial: Memory | None,
    eps: float,
    running: Running | None,
    factor: Memory | None,
    bias: Memory | None,
    channels: Memory,
) -> Run:
    """The channels' numbers, C x CHANNEL floats, from the moments, or without `partial` the running ones."""
    mean, variance, weight = (running.mean, running.variance, running.weight) if running else (None,) * 3
    keep, add, unbias = (running.keep, running.add, running.unbias) if running else (0, 0, 0)
    numbers = (np.float32(number) for number in (eps, keep, add, unbias))
    arguments = (partial, *numbers, mean, variance, weight, factor, bias, channels)
    return _launch_for_channels(device, "bn_finish", cells, arguments)


def fold(
    device: Device,
    channels: int,
    eps: float,
    running: Running,
    factor: Memory | None,
    bias: Memory | None,
    shift: Memory | None,
    lines: tuple[Memory, Memory],
) -> Run:
    """The factor and the bias, C floats each, that a convolution applies to its sums in place of its own bias
    `shift` and of a normalisation by the running statistics."""
    statistics = (running.mean, running.variance, running.weight)
    arguments = (np.int32(channels), np.float32(eps), *statistics, factor, bias, shift, *lines)
    return Launch.of(device, VARIANTS["bn_fold"], (-(-channels // THREADS),), arguments)


def finish_backward(
    device: Device,
    cells: Cells,
    partial: Memory | None,
    from_batch: bool,
    channels: Memory,
    factor_gradient: Memory | None,
    bias_gradient: Memory | None,
    slopes: Memory,
) -> Run:
    """Adds to the gradients of factor and bias, and makes the slopes of dx, C x SLOPES floats.

    from_batch: whether mean and variance hang on x.
    """
    share = np.float32(1 / cells.of_channel if from_batch else 0)
    arguments = (partial, share, channels, factor_gradient, bias_gradient, slopes)
    return _launch_for_channels(device, "bn_finish_backward", cells, arguments)


def _launch_for_channels(device: Device, kernel: str, cells: Cells, arguments: tuple[Argument, ...]) -> Run:
    blocks = -(-cells.channels * WARP // THREADS)
    sizes = (np.int32(cells.channels), np.int32(cells.parts))
    return Launch.of(device, VARIANTS[kernel], (blocks,), (*sizes, *arguments))


def apply(
    device: Device,
    cells: Cells,
    x: Memory,
    channels: Memory,
    slope: float,
    y: Memory,
    kept: Memory | None = None,
    residual: Memory | None = None,
) -> Run:
    """y = relu(scale (x - mean) + shift + residual); `kept` gets x. y may be x."""
    pack = pack_of(x, residual, y, kept)
    arguments = (x, residual, channels, np.float32(slope), y, kept)
    return _sweep(device, "bn_apply", cells, pack, arguments)


def apply_backward(
    device: Device,
    cells: Cells,
    x: Memory | None,
    gradients: Gradients,
    slopes: Memory,
    dx: Memory | None,
    dresidual: Memory | None = None,
) -> Run:
    """dx from the slopes; without x there is no ReLU, and mean and variance are constants.

    dresidual: dy behind the ReLU. Either may be dy.
    """
    g = gradients
    pack = pack_of(x, g.y, g.dy, dx, dresidual)
    arguments = (x, g.y, g.dy, g.channels, slopes, np.float32(g.slope), dx, dresidual)
    return _sweep(device, "bn_apply_backward", cells, pack, arguments)


def _sweep(device: Device, kernel: str, cells: Cells, pack: int, arguments: tuple[Argument, ...]) -> Run:
    if cells.last:
        processors = device.properties.processors
        shares = Columns.of(cells.channels, pack).shares(processors, cells.images, SWEEPING_BLOCKS)
        return _launch_last(device, f"{kernel}_last", cells, pack, shares, arguments)
    sizes = (np.int64(cells.size), *divisor(cells.channels), *divisor(cells.cells))
    grid = (blocks_for(device, cells.size, pack),)
    return Launch.of(device, VARIANTS[kernel, pack], grid, (*sizes, *arguments))


def _launch_last(
    device: Device, kernel: str, cells: Cells, pack: int, shares: int, arguments: tuple[Argument, ...]
) -> Run:
    columns = Columns.of(cells.channels, pack)
    sizes = (np.int32(cells.images), np.int32(cells.channels), np.int32(columns.lanes))
    return Launch.of(device, VARIANTS[kernel, columns.pack], (columns.tiles, shares), (*sizes, *arguments))
