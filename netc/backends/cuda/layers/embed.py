"""Embed and BatchReindex on the device: the table of kernels/embed.cu, its launches, and the forms.

The layers over `xp` refuse a number that names no row. Here nothing is looked at on the host: such a number's
row of the top is NaN, and it adds to no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Device, Memory
from netc.backends.cuda.device.form import DeviceForm, fits
from netc.backends.cuda.launching import Launch, in_order
from netc.backends.cuda.launching.division import divisor
from netc.backends.cuda.launching.elementwise import PACKS, THREADS, blocks_for, pack_of
from netc.backends.cuda.layers.reduce import Sums, sum_channels
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers
from netc.layer.base import count

FORWARD = {
    pack: Variant(f"embed_forward pack {pack}", "embed.cu", f"embed_forward<{pack}>", THREADS)
    for pack in PACKS
}
BACKWARD = {
    by_row: Variant(
        f"embed_backward by {'row' if by_row else 'number'}",
        "embed.cu",
        f"embed_backward<{str(by_row).lower()}>",
        THREADS,
    )
    for by_row in (False, True)
}
VARIANTS = (*FORWARD.values(), *BACKWARD.values())


def embed_forward(
    device: Device,
    numbers: int,
    rows: int,
    columns: int,
    index: Memory,
    table: Memory,
    bias: Memory | None,
    y: Memory,
) -> Run:
    """y[i] = table[index[i]] + bias for so many numbers; NaN where a number names no row."""
    pack = pack_of(table, bias, y) if columns % PACKS[0] == 0 else 1
    n = numbers * columns // pack
    arguments = (np.uint32(n), np.int32(rows), *divisor(columns // pack), index, table, bias, y)
    return Launch.of(device, FORWARD[pack], (blocks_for(device, n, 1),), arguments)


def embed_backward(
    device: Device, numbers: int, rows: int, columns: int, index: Memory, dy: Memory, dtable: Memory
) -> Run:
    """dtable[index[i]] += dy[i], in the order of i."""
    by_row = rows <= numbers
    kernel = device.load(BACKWARD[by_row])
    grid = (min(rows, numbers), -(-columns // THREADS))
    arguments = (np.int32(numbers), np.int32(rows), np.int32(columns), index, dy, dtable)
    return partial(device.launch, kernel, grid, (THREADS,), arguments)


class Embed(DeviceForm):
    """Rows of a table; their gradients are gathered, not scattered, in an order that never changes."""

    variant = "embed"

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        super().__init__(nodes, device)
        options = self.node.layer.options
        self.axes = (count(self.inputs[0].shape), options.input_dim, options.num_output)
        self.has_bias: bool = options.bias_term
        self.sums = Sums.plan(device, "dy", self.axes[0], self.axes[2], 1)
        if self.has_bias:
            self.backward_workspace = self.sums.workspace

    def forward(self, b: Buffers) -> Run | None:
        index, table, y = map(self.memory, (b.bottoms[0], b.params[0], b.tops[0]))
        bias = self.memory(b.params[1]) if self.has_bias else None
        return embed_forward(self.device, *self.axes, index, table, bias, y)

    def backward(self, b: Buffers) -> Run | None:
        index, dy = self.memory(b.bottoms[0]), self.memory(b.top_grads[0])
        runs: list[Run | None] = []
        if b.param_grads[0] is not None:
            runs.append(embed_backward(self.device, *self.axes, index, dy, self.memory(b.param_grads[0])))
        if self.has_bias and b.param_grads[1] is not None:
            shares, dbias = self.memory_if(b.workspace.get("shares")), self.memory(b.param_grads[1])
            runs.append(sum_channels(self.device, self.sums, dy, None, shares, dbias))
        return in_order(*runs)


class BatchReindex(DeviceForm):
    """The rows of bottom 0 are the table."""

    variant = "embed"

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        super().__init__(nodes, device)
        (rows, *row), (numbers,) = (value.shape for value in self.inputs)
        self.axes = (numbers, rows, count(row))

    def forward(self, b: Buffers) -> Run | None:
        table, index = map(self.memory, b.bottoms)
        return embed_forward(self.device, *self.axes, index, table, None, self.memory(b.tops[0]))

    def backward(self, b: Buffers) -> Run | None:
        index, dy, dx = map(self.memory, (b.bottoms[1], b.top_grads[0], b.bottom_grads[0]))
        zero = partial(self.device.fill, dx)
        return in_order(zero, embed_backward(self.device, *self.axes, index, dy, dx))


def make_embed(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    return Embed(nodes, device) if fits(nodes) else None


def make_batch_reindex(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    return BatchReindex(nodes, device) if fits(nodes) else None


FORMS: dict[tuple[str, ...], Maker] = {
    ("Embed",): make_embed,
    ("BatchReindex",): make_batch_reindex,
}
