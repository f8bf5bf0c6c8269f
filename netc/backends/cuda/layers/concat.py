"""Concat and Slice on the device: the table of kernels/concat.cu, its launches, and the forms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.device.form import DeviceForm, around_axis, fits
from netc.backends.cuda.launching import Launch, in_order
from netc.backends.cuda.launching.division import divisor
from netc.backends.cuda.launching.elementwise import PACKS, THREADS, pack_of
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node, Value
from netc.layer import Buffers

MOST: Final = 8  # parts at once
BEYOND: Final = 2**32 - 1  # where a part that is not there ends

VARIANTS = {
    (kernel, pack): Variant(f"{kernel} pack {pack}", "concat.cu", f"{kernel}<{pack}>", THREADS)
    for kernel in ("join", "take_apart")
    for pack in PACKS
}
Parts = Sequence[Memory | None]


def join(device: Device, rows: int, widths: Sequence[int], parts: Parts, whole: Memory) -> Run | None:
    """Writes parts of these widths (columns) side by side into the rows of `whole`; zeros for None."""
    return _all(device, "join", rows, widths, parts, whole)


def take_apart(device: Device, rows: int, widths: Sequence[int], whole: Memory, parts: Parts) -> Run | None:
    """Writes the columns of the rows of `whole` into parts of these widths; None are left out."""
    return _all(device, "take_apart", rows, widths, parts, whole)


def _all(
    device: Device, kernel: str, rows: int, widths: Sequence[int], parts: Parts, whole: Memory
) -> Run | None:
    pack = pack_of(whole, *parts) if all(width % PACKS[0] == 0 for width in widths) else PACKS[1]
    packs = [width // pack for width in widths]
    runs = []
    for first in range(0, len(parts), MOST):
        chosen = slice(first, first + MOST)
        ends = list(accumulate(packs[chosen]))
        columns, missing = ends[-1], MOST - len(ends)
        arguments: list[Argument] = [np.uint32(rows * columns), *divisor(columns)]
        arguments += [np.uint32(sum(packs[:first])), np.uint32(sum(packs))]
        arguments += [*parts[chosen], *[None] * missing]
        arguments += [np.uint32(end) for end in (*ends, *[BEYOND] * missing)]
        blocks = -(-rows * columns // THREADS)
        runs.append(Launch.of(device, VARIANTS[kernel, pack], (blocks,), [*arguments, whole]))
    return in_order(*runs)


class Concat(DeviceForm):
    """Every part is read and written once, in one launch for each 8 of them."""

    variant = "join"

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        super().__init__(nodes, device)
        self.rows, self.widths = _columns(self, self.inputs)

    def forward(self, b: Buffers) -> Run | None:
        parts = [self.memory(x) for x in b.bottoms]
        return join(self.device, self.rows, self.widths, parts, self.memory(b.tops[0]))

    def backward(self, b: Buffers) -> Run | None:
        parts = [self.memory_if(dx) for dx in b.bottom_grads]
        return take_apart(self.device, self.rows, self.widths, self.memory(b.top_grads[0]), parts)


class Slice(DeviceForm):
    """Every part is read and written once, in one launch for each 8 of them."""

    variant = "take_apart"

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        super().__init__(nodes, device)
        self.rows, self.widths = _columns(self, self.outputs)

    def forward(self, b: Buffers) -> Run | None:
        parts = [self.memory(y) for y in b.tops]
        return take_apart(self.device, self.rows, self.widths, self.memory(b.bottoms[0]), parts)

    def backward(self, b: Buffers) -> Run | None:
        parts = [self.memory_if(dy) for dy in b.top_grads]
        return join(self.device, self.rows, self.widths, parts, self.memory(b.bottom_grads[0]))


def _columns(form: DeviceForm, parts: Sequence[Value]) -> tuple[int, list[int]]:
    """The rows of the whole and the columns of each part; all of them lie as most of the bottoms do."""
    layout = form.keep_layout()
    axis: int = form.node.layer.axis  # type: ignore[attr-defined]
    rows, inner = around_axis(parts[0].shape, axis, layout)
    return rows, [part.shape[axis] * inner for part in parts]


def make_concat(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    return Concat(nodes, device) if fits(nodes) else None


def make_slice(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    return Slice(nodes, device) if fits(nodes) else None


FORMS: dict[tuple[str, ...], Maker] = {("Concat",): make_concat, ("Slice",): make_slice}
