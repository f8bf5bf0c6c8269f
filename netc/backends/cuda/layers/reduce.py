"""Sums on the device: the table of kernels/reduce.cu, its launches, and the form of Reduction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.device.form import DeviceForm, fits
from netc.backends.cuda.launching import Launch, in_order
from netc.backends.cuda.launching.division import divisor
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES, PACKS, THREADS, blocks_for, pack_of
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers, Scratch
from netc.proto import netc_pb2 as pb

WARPS: Final = 8  # of a block
WARP: Final = 32
STRETCH: Final = 1024  # cells of a channel that a warp takes at a time
BLOCKS_PER_PROCESSOR: Final = 8
SHORT: Final = 32  # inner cells below which a warp cannot fill its lanes from one channel
ROWS_OF_A_WARP: Final = 16  # at least, before the rows are cut into more chunks

# What is summed: its structure in reduce.cu, and how many sums it makes.
TERMS = {
    "dy": ("Plain", 1),
    "|dy|": ("Magnitude", 1),
    "dy^2": ("Square", 1),
    "dy x": ("Product", 1),
    "dy x, dy": ("ProductAndPlain", 2),
    "dy min(x, 0)": ("Below", 1),
}
ROWS = {
    term: Variant(f"sum_rows {term}", "reduce.cu", f"sum_rows<{structure}>", WARPS * WARP)
    for term, (structure, _) in TERMS.items()
}
SHORT_ROWS = {
    term: Variant(f"sum_short_rows {term}", "reduce.cu", f"sum_short_rows<{structure}>", WARPS * WARP)
    for term, (structure, _) in TERMS.items()
    if term in ("dy", "|dy|", "dy^2", "dy x")  # of rows without an outer axis: Reduction, Axpy, Tile
}
COLUMNS = {
    (term, pack): Variant(
        f"sum_columns {term} pack {pack}", "reduce.cu", f"sum_columns<{structure}, {pack}>", WARPS * WARP
    )
    for term, (structure, _) in TERMS.items()
    if term not in ("|dy|", "dy^2")  # Reduction's, which are rows
    for pack in PACKS
}
ADD_SHARES = Variant("add_shares", "reduce.cu", "add_shares<4>", WARPS * WARP)
SUM_MIDDLE = Variant("sum_middle", "reduce.cu", "sum_middle<4>", THREADS)
SPREAD = {
    slope: Variant(f"spread_rows {slope}", "reduce.cu", f"spread_rows<{slope}>", THREADS)
    for slope in ("One", "Sign", "Twice")
}
VARIANTS = (*ROWS.values(), *SHORT_ROWS.values(), *COLUMNS.values(), ADD_SHARES, SUM_MIDDLE, *SPREAD.values())


@dataclass(frozen=True)
class Sums:
    """How the elements of arrays (outer, channels, inner) are summed up for each channel.

    by_rows: which of the two kernels; chunks: how many shares each sum is made of; matrices: so many such
    arrays, with sums of their own, lie one behind the other.
    """

    term: str
    outer: int
    channels: int
    inner: int
    by_rows: bool
    chunks: int
    matrices: int = 1

    @classmethod
    def plan(
        cls, device: Device, term: str, outer: int, channels: int, inner: int, by_rows: bool | None = None
    ) -> Sums:
        """The plan that occupies the device; `by_rows` overrides the choice of a kernel."""
        if by_rows is None:
            by_rows = inner >= SHORT
        if by_rows:
            across, most = channels, outer * -(-inner // STRETCH) / WARPS
        else:
            across = -(-channels * inner // (WARP * PACKS[0]))
            most = outer / (WARPS * ROWS_OF_A_WARP)
        wanted = BLOCKS_PER_PROCESSOR * device.properties.processors / across
        return cls(term, outer, channels, inner, by_rows, max(1, int(min(wanted, most))))

    @classmethod
    def of_images(cls, term: str, images: int, cells: int, channels: int) -> Sums:
        """Over the cells of each image by itself, where the channels of a cell lie side by side."""
        return cls(term, cells, channels, 1, False, 1, images)

    @property
    def short(self) -> bool:
        """Whether a warp is enough for a channel."""
        few = self.outer * -(-self.inner // STRETCH) < WARPS and self.channels >= WARPS
        return self.by_rows and self.chunks == 1 and few and self.term in SHORT_ROWS

    @property
    def direct(self) -> bool:
        """Whether stage one writes the sums themselves."""
        return self.chunks == 1 and (self.by_rows or self.inner == 1)

    @property
    def shares(self) -> int:
        """How many shares of one sum of every channel there are."""
        return self.chunks * self.channels * (1 if self.by_rows else self.inner)

    @property
    def workspace(self) -> Mapping[str, Scratch]:
        """The workspace to ask for."""
        if self.direct:
            return {}
        return {"shares": Scratch((TERMS[self.term][1], self.shares), np.float32)}


def sum_channels(
    device: Device,
    sums: Sums,
    dy: Memory,
    x: Memory | None,
    workspace: Memory | None,
    first: Memory | None,
    second: Memory | None = None,
    *,
    factor: float = 1.0,
    adds: bool = True,
) -> Run | None:
    """Adds the sums of a plan, times `factor`, to `first` (and the second ones to `second`), or sets them.

    workspace: memory of `sums.workspace`; a target that is None is left out.
    """
    if sums.direct:
        return _first_stage(device, sums, dy, x, (first, second), factor, adds)
    assert workspace is not None
    nbytes = sums.shares * FLOAT_BYTES
    parts = [workspace.part(start, nbytes) for start in range(0, workspace.nbytes, nbytes)]
    second_part = parts[1] if len(parts) > 1 else None
    inner = 1 if sums.by_rows else sums.inner
    sizes = (np.int32(sums.chunks), np.int32(sums.channels), np.int32(inner))
    arguments = (*sizes, parts[0], second_part, first, second, np.float32(factor), np.bool_(adds))
    return in_order(
        _first_stage(device, sums, dy, x, (parts[0], second_part), 1, False),
        Launch.of(device, ADD_SHARES, (-(-sums.channels // WARP),), arguments),
    )  # fmt: skip


def _first_stage(
    device: Device,
    sums: Sums,
    dy: Memory,
    x: Memory | None,
    targets: tuple[Memory | None, Memory | None],
    factor: float,
    adds: bool,
) -> Run:
    last: tuple[Argument, ...] = (dy, x, *targets, np.float32(factor), np.bool_(adds))
    whole = pack_of(dy, x)
    if sums.by_rows:
        packed = np.bool_(whole > 1 and sums.inner % whole == 0)
        sizes = (np.int32(sums.outer), np.int32(sums.channels), np.int32(sums.inner))
        if sums.short:
            blocks = -(-sums.channels // WARPS)
            return Launch.of(device, SHORT_ROWS[sums.term], (blocks,), (*sizes, packed, *last))
        blocks = sums.channels * sums.chunks
        return Launch.of(device, ROWS[sums.term], (blocks,), (*sizes, np.int32(sums.chunks), packed, *last))
    columns = sums.channels * sums.inner
    pack = whole if columns % whole == 0 else 1
    blocks = -(-columns // (WARP * pack)) * sums.chunks
    shape = (np.int32(sums.outer), np.int32(columns), np.int32(sums.chunks))
    return Launch.of(device, COLUMNS[sums.term, pack], (blocks, sums.matrices), (*shape, *last))


def sum_middle(device: Device, outer: int, middle: int, inner: int, x: Memory, y: Memory) -> Run:
    """y (outer, inner) = the sum over the middle axis of x (outer, middle, inner)."""
    n = outer * inner
    arguments = (np.uint32(n), np.int32(middle), *divisor(inner), x, y)
    return Launch.of(device, SUM_MIDDLE, (blocks_for(device, n, 1),), arguments)


def spread_rows(
    device: Device,
    slope: str,
    rows: int,
    columns: int,
    dy: Memory,
    x: Memory | None,
    dx: Memory,
    factor: float,
) -> Run:
    """dx = factor dy[row] slope(x) for every element of the rows; slope: a key of SPREAD."""
    n, pack = rows * columns, pack_of(x, dx)
    sizes = (np.uint32(n), np.bool_(pack > 1), *divisor(columns), *divisor(rows))
    arguments = (*sizes, dy, x, dx, np.float32(factor))
    return Launch.of(device, SPREAD[slope], (blocks_for(device, n, pack),), arguments)


# Reduction's operations: what is summed, and the slope of an element.
OPERATIONS = {
    pb.ReductionParameter.SUM: ("dy", "One"),
    pb.ReductionParameter.MEAN: ("dy", "One"),
    pb.ReductionParameter.ASUM: ("|dy|", "Sign"),
    pb.ReductionParameter.SUMSQ: ("dy^2", "Twice"),
}


class Reduction(DeviceForm):
    """Rows summed up in two stages."""

    variant = "sum_rows"

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        super().__init__(nodes, device)
        layer = self.node.layer
        self.rows, self.columns = layer.rows  # type: ignore[attr-defined]
        self.factor = float(layer.factor)  # type: ignore[attr-defined]
        term, self.slope = OPERATIONS[layer.options.operation]
        self.sums = Sums.plan(device, term, 1, self.rows, self.columns, by_rows=True)
        self.forward_workspace = self.sums.workspace

    def forward(self, b: Buffers) -> Run | None:
        x, y = self.memory(b.bottoms[0]), self.memory(b.tops[0])
        shares = self.memory_if(b.workspace.get("shares"))
        return sum_channels(self.device, self.sums, x, None, shares, y, factor=self.factor, adds=False)

    def backward(self, b: Buffers) -> Run | None:
        dy, dx = self.memory(b.top_grads[0]), self.memory(b.bottom_grads[0])
        x = None if self.slope == "One" else self.memory(b.bottoms[0])
        return spread_rows(self.device, self.slope, self.rows, self.columns, dy, x, dx, self.factor)


def make_reduction(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    return Reduction(nodes, device) if fits(nodes) else None


FORMS: dict[tuple[str, ...], Maker] = {("Reduction",): make_reduction}
