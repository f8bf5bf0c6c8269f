"""Convolution on tensor cores: the tables of kernels/conv_mma.cu and conv_mma_weights.cu, their launches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from netc.backends.cuda.channel_sum import add_partials
from netc.backends.cuda.conv_shape import ConvKernels, ConvShape
from netc.backends.cuda.device import Argument, Device
from netc.backends.cuda.division import divisor
from netc.backends.cuda.elementwise import THREADS, blocks_for
from netc.backends.cuda.kernel import Variant
from netc.backends.cuda.launch import Launch, one_after_another
from netc.backends.cuda.memory import Memory
from netc.backends.form import Run
from netc.errors import NetcError

WARP = 32
FLOAT_BYTES = 4
ROW_BYTES = 64  # of one packed row of filters
TABLE_ROWS = 2048  # the most channels times taps of layers whose steps are made of both
TABLE_BYTES = TABLE_ROWS * 8
WGMMA_ALIGNMENT = 512  # bytes
MOST_SHARE_BYTES = 256 << 20  # of the sums that backward-weights leaves for its second stage
LEAST_STEPS = 8  # of a share: fewer do not pay for its second stage
NUMBERS = {"tf32": "float", "bf16": "bf16", "fp16": "fp16"}  # what filters are packed as


@dataclass(frozen=True)
class Tile:
    """A block's share of the work.

    m, n: rows (output channels) and columns (cells, or channels and taps for the filters' gradient); warp_m,
    warp_n: those of a warp; stages: the steps under way at once; wgmma: by conv_wgmma.cu.
    """

    math: str
    m: int
    n: int
    warp_m: int
    warp_n: int
    stages: int
    wgmma: bool = False

    @property
    def threads(self) -> int:
        return (self.m // self.warp_m) * (self.n // self.warp_n) * WARP

    @property
    def is_narrow(self) -> bool:
        return self.math != "tf32"

    @property
    def step(self) -> int:
        """Numbers of a packed row, and cells of a step of the filters' gradient."""
        return 32 if self.is_narrow else 16

    def shared_bytes(self, table: bool) -> int:
        """Dynamic shared memory of conv_tf32, conv_narrow or conv_wgmma."""
        more = TABLE_BYTES if table else 0
        if self.wgmma:
            return self.stages * (self.m + self.n) * ROW_BYTES + WGMMA_ALIGNMENT + more
        if self.is_narrow:
            return self.stages * (self.m + self.n) * (self.step + 8) * 2 + more
        return self.stages * (self.m * (self.step + 4) + self.step * (self.n + 8)) * FLOAT_BYTES + more

    @property
    def weights_shared_bytes(self) -> int:
        """Dynamic shared memory of conv_weights_tf32; that of conv_weights_narrow is static."""
        return 0 if self.is_narrow else self.stages * (self.m + self.n) * (self.step + 4) * FLOAT_BYTES


TILES = (
    Tile("tf32", 128, 128, 64, 32, stages=4),
    Tile("tf32", 64, 64, 32, 32, stages=4),
    Tile("bf16", 128, 128, 64, 32, stages=2),
    Tile("bf16", 64, 64, 32, 32, stages=2),
    Tile("fp16", 128, 128, 64, 32, stages=2),
    Tile("fp16", 64, 64, 32, 32, stages=2),
)

# For the GPUs of sm_90 alone, and only where they are asked for.
WGMMA_TILES = tuple(Tile(math, 128, 128, 16, 128, stages=3, wgmma=True) for math in NUMBERS)


def _data_variant(tile: Tile, table: bool) -> Variant:
    if tile.wgmma:
        name = f"conv {tile.math} wgmma{' table' if table else ''}"
        expression = f"conv_wgmma<{NUMBERS[tile.math]}, {str(table).lower()}>"
        shared_bytes = tile.shared_bytes(table)
        return Variant(
            name, "conv_wgmma.cu", expression, tile.threads, shared_bytes, architecture=90, specific=True
        )
    sizes = f"{tile.m}, {tile.n}, {tile.warp_m}, {tile.warp_n}"
    kernel = f"conv_narrow<{tile.math}, {sizes}" if tile.is_narrow else f"conv_tf32<{sizes}, {tile.stages}"
    return Variant(
        f"conv {tile.math} {tile.m}x{tile.n}{' table' if table else ''}",
        "conv_mma.cu",
        f"{kernel}, {str(table).lower()}>",
        tile.threads,
        tile.shared_bytes(table),
        architecture=80,
    )


def _weights_variant(tile: Tile) -> Variant:
    sizes = f"{tile.m}, {tile.n}, {tile.step}, {tile.warp_m}, {tile.warp_n}"
    narrow = f"conv_weights_narrow<{tile.math}, {sizes}>"
    return Variant(
        f"conv weights {tile.math} {tile.m}x{tile.n}",
        "conv_mma_weights.cu",
        narrow if tile.is_narrow else f"conv_weights_tf32<{sizes}, {tile.stages}>",
        tile.threads,
        tile.weights_shared_bytes,
        architecture=80,
    )


DATA = {
    (tile, table): _data_variant(tile, table) for tile in (*TILES, *WGMMA_TILES) for table in (False, True)
}
WEIGHTS = {tile: _weights_variant(tile) for tile in TILES}
PACK = {
    math: Variant(f"pack filters {math}", "conv_mma.cu", f"pack_filters<{number}>", THREADS, architecture=80)
    for math, number in NUMBERS.items()
}
VARIANTS: tuple[Variant, ...] = (*DATA.values(), *WEIGHTS.values(), *PACK.values())


@dataclass(frozen=True)
class Packing:
    """How filters are packed: for each group, chunk of `step` channels and tap, `rows` rows of `step`
    numbers.

    table: channels and taps of the layer both count as channels. row_stride, channel_stride: how far
    neighbours lie apart in the filters.
    """

    math: str
    groups: int
    rows: int
    channels: int
    taps: int
    row_stride: int
    channel_stride: int
    table: bool = False

    @property
    def step(self) -> int:
        return 16 if self.math == "tf32" else 32

    @property
    def chunks(self) -> int:
        return -(-self.channels // self.step)

    @property
    def count(self) -> int:
        """Packed numbers."""
        return self.groups * self.chunks * self.taps * self.rows * self.step

    @property
    def floats(self) -> int:
        """Floats that they take."""
        return self.count * ROW_BYTES // (self.step * FLOAT_BYTES)


def forward_packing(math: str, shape: ConvShape) -> Packing:
    """Channels and taps become one axis where whole chunks of channels would be filled up with many zeros."""
    taps, depth = shape.taps, shape.group_c * shape.taps
    plain = Packing(math, shape.group, shape.group_k, shape.group_c, taps, depth, taps)
    together = Packing(math, shape.group, shape.group_k, depth, 1, depth, 1, table=True)
    room = together.chunks * together.step <= TABLE_ROWS
    return together if taps > 1 and room and plain.count > 1.2 * together.count else plain


def backward_packing(math: str, shape: ConvShape) -> Packing:
    """The bottom's channels are the rows; the top's are summed over."""
    taps, depth = shape.taps, shape.group_c * shape.taps
    return Packing(math, shape.group, shape.group_c, shape.group_k, taps, taps, depth)


def tiles(math: str) -> list[Tile]:
    """All of a math mode that a tuner should try. Raises NetcError where there are none."""
    found = [tile for tile in TILES if tile.math == math]
    if not found:
        raise NetcError(
            "there is no convolution on tensor cores in this math mode",
            expected=" or ".join(NUMBERS),
            found=math,
        )
    return found


def choose_tile(math: str, rows: int, columns: int, others: int, processors: int) -> Tile:
    """The largest tile of which there are enough to occupy the device, and that is not mostly padding."""
    found = tiles(math)

    def area(tile: Tile) -> int:
        return _up(rows, tile.m) * tile.m * _up(columns, tile.n) * tile.n

    least = area(found[-1])
    for tile in found:
        if _up(rows, tile.m) * _up(columns, tile.n) * others >= processors and area(tile) <= 1.4 * least:
            return tile
    return found[-1]


def choose_shares(shape: ConvShape, tile: Tile, processors: int) -> int:
    """Into how many shares the cells are split: enough blocks for two on each processor, as memory allows."""
    columns = shape.group_c * shape.taps
    blocks = _up(shape.group_k, tile.m) * _up(columns, tile.n) * shape.group
    steps = _up(shape.n * shape.p * shape.q, tile.step)
    wanted = min(_up(2 * processors, blocks), steps // LEAST_STEPS)
    room = MOST_SHARE_BYTES // (shape.weight_count * FLOAT_BYTES)
    return max(1, min(wanted, room, 65535))


def forward_tile(math: str, device: Device, shape: ConvShape) -> Tile:
    """The tile that should be fastest."""
    columns = shape.n * shape.p * shape.q
    return choose_tile(math, shape.group_k, columns, shape.group, device.properties.processors)


def backward_data_tile(math: str, device: Device, shape: ConvShape) -> Tile:
    """The tile that should be fastest."""
    others = shape.group * shape.stride[0] * shape.stride[1]
    return choose_tile(math, shape.group_c, _phase_columns(shape), others, device.properties.processors)


def _phase_columns(shape: ConvShape) -> int:
    """The cells of x that meet the first kernel position of a backward pass with a stride."""
    return shape.n * _up(shape.h, shape.stride[0]) * _up(shape.w, shape.stride[1])


def forward(
    math: str,
    device: Device,
    shape: ConvShape,
    x: Memory,
    w: Memory,
    y: Memory,
    bias: Memory | None = None,
    slope: float = 1.0,
    workspace: Memory | None = None,
    tile: Tile | None = None,
) -> Run:
    """Binds y = relu(w * x + bias); the workspace takes the packed filters."""
    packing = forward_packing(math, shape)
    columns = shape.n * shape.p * shape.q
    tile = tile or forward_tile(math, device, shape)
    sizes = (shape.n, shape.group_c, shape.h, shape.w, shape.group_k, shape.p, shape.q)
    grid = (_up(packing.rows, tile.m) * _up(columns, tile.n), 1, shape.group)
    return _data(device, shape, packing, tile, sizes, grid, False, x, w, y, bias, slope, workspace)


def backward_data(
    math: str,
    device: Device,
    shape: ConvShape,
    dy: Memory,
    w: Memory,
    dx: Memory,
    bias: Memory | None = None,
    slope: float = 1.0,
    workspace: Memory | None = None,
    tile: Tile | None = None,
) -> Run:
    """Binds dx = relu(w turned * dy + bias); the workspace takes the packed filters."""
    packing = backward_packing(math, shape)
    columns, others = _phase_columns(shape), shape.group * shape.stride[0] * shape.stride[1]
    tile = tile or backward_data_tile(math, device, shape)
    sizes = (shape.n, shape.group_k, shape.p, shape.q, shape.group_c, shape.h, shape.w)
    grid = (_up(packing.rows, tile.m) * _up(columns, tile.n), 1, others)
    return _data(device, shape, packing, tile, sizes, grid, True, dy, w, dx, bias, slope, workspace)


def _data(
    device: Device,
    shape: ConvShape,
    packing: Packing,
    tile: Tile,
    sizes: tuple[int, ...],
    grid: tuple[int, int, int],
    backward: bool,
    source: Memory,
    w: Memory,
    target: Memory,
    bias: Memory | None,
    slope: float,
    workspace: Memory | None,
) -> Run:
    packed = _room(workspace, packing.floats)
    numbers = (packing.channels, packing.taps, packing.row_stride, packing.channel_stride)
    pack_arguments: list[Argument] = [np.int64(packing.count), np.int32(packing.rows)]
    pack_arguments += [*map(np.int32, numbers), w, packed]
    pack = Launch.of(device, PACK[packing.math], (blocks_for(device, packing.count, 1),), pack_arguments)
    window = (shape.r, shape.s, *shape.stride, *shape.pad, *shape.dilation, shape.group)
    arguments: list[Argument] = [*map(np.int32, (*sizes, *window)), np.bool_(backward)]
    arguments += [source, packed, bias, np.float32(slope), target]
    return one_after_another(pack, Launch.of(device, DATA[tile, packing.table], grid, arguments))


def backward_weights(
    math: str,
    device: Device,
    shape: ConvShape,
    x: Memory,
    dy: Memory,
    dw: Memory,
    workspace: Memory | None = None,
    tile: Tile | None = None,
    shares: int | None = None,
) -> Run:
    """Binds dw += dy * x; the workspace takes the sums of the shares."""
    tile = tile or weights_tile(math, device, shape)
    shares = shares or choose_shares(shape, tile, device.properties.processors)
    share = _up(_up(shape.n * shape.p * shape.q, tile.step), shares)
    sums = dw if shares == 1 else _room(workspace, shares * shape.weight_count)
    columns = shape.group_c * shape.taps
    grid = (_up(shape.group_k, tile.m) * _up(columns, tile.n), shares, shape.group)
    sizes = (shape.c, shape.h, shape.w, shape.k, shape.r, shape.s, shape.p, shape.q)
    window = (*shape.stride, *shape.pad, *shape.dilation, shape.group)
    arguments: list[Argument] = [np.int64(shape.n * shape.p * shape.q), *map(np.int32, (*sizes, *window))]
    arguments += [*divisor(shape.p * shape.q), *divisor(shape.q), np.int32(share), x, dy, sums]
    products = Launch.of(device, WEIGHTS[tile], grid, arguments)
    if shares == 1:
        return products
    return one_after_another(products, add_partials(device, shape.weight_count, shares, sums, dw))


def forward_floats(math: str, device: Device, shape: ConvShape) -> int:
    return forward_packing(math, shape).floats


def backward_data_floats(math: str, device: Device, shape: ConvShape) -> int:
    return backward_packing(math, shape).floats


def backward_weights_floats(math: str, device: Device, shape: ConvShape) -> int:
    shares = choose_shares(shape, weights_tile(math, device, shape), device.properties.processors)
    return 0 if shares == 1 else shares * shape.weight_count


def weights_tile(math: str, device: Device, shape: ConvShape) -> Tile:
    """Shares make up for few tiles, so only padding speaks against a large one."""
    others = shape.group * max(1, _up(shape.n * shape.p * shape.q, 32) // LEAST_STEPS)
    columns = shape.group_c * shape.taps
    return choose_tile(math, shape.group_k, columns, others, device.properties.processors)


def _room(workspace: Memory | None, floats: int) -> Memory:
    """The workspace. Raises NetcError where it is too small."""
    if workspace is None or workspace.nbytes < floats * FLOAT_BYTES:
        raise NetcError(
            "a convolution was given too little workspace",
            expected=f"{floats * FLOAT_BYTES:,} bytes",
            found=f"{workspace.nbytes if workspace else 0:,} bytes",
        )
    return workspace


def _up(a: int, b: int) -> int:
    return -(-a // b)


def _kernels(math: str, name: str, tile: Tile | None = None) -> ConvKernels:
    """Of one math mode; `tile`: the one for images, in place of the choice by their sizes."""
    return ConvKernels(
        f"{name} {math}",
        partial(forward, math, tile=tile),
        partial(backward_data, math, tile=tile),
        partial(backward_weights, math),
        partial(forward_floats, math),
        partial(backward_data_floats, math),
        partial(backward_weights_floats, math),
    )


KERNELS = {math: _kernels(math, "mma") for math in NUMBERS}
WGMMA_KERNELS = {tile.math: _kernels(tile.math, "wgmma", tile) for tile in WGMMA_TILES}
