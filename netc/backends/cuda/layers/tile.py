"""Tile on the device: forward is a copy that repeats an axis, backward a sum over the copies."""

from __future__ import annotations

from collections.abc import Sequence

from netc.backends.cuda.device import Device
from netc.backends.cuda.device.form import DeviceForm, fits
from netc.backends.cuda.layers.permute import Axis, copy_strided
from netc.backends.cuda.layers.reduce import Sums, sum_channels, sum_middle
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers


class Tile(DeviceForm):
    """Copies (outer, tiles, inner) of (outer, inner)."""

    variant = "copy_strided"

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        super().__init__(nodes, device)
        layer = self.node.layer
        self.outer, self.inner = layer.outer, layer.inner  # type: ignore[attr-defined]
        self.tiles: int = layer.options.tiles
        # Copies of single elements lie side by side: their sums are those of rows.
        self.sums = (
            Sums.plan(device, "dy", 1, self.outer, self.tiles, by_rows=True) if self.inner == 1 else None
        )
        if self.sums is not None:
            self.backward_workspace = self.sums.workspace

    def forward(self, b: Buffers) -> Run | None:
        inner = self.inner
        axes = [Axis(self.outer, inner, self.tiles * inner), Axis(self.tiles, 0, inner), Axis(inner, 1, 1)]
        return copy_strided(self.device, axes, self.memory(b.bottoms[0]), self.memory(b.tops[0]))

    def backward(self, b: Buffers) -> Run | None:
        dy, dx = self.memory(b.top_grads[0]), self.memory(b.bottom_grads[0])
        if self.sums is None:
            return sum_middle(self.device, self.outer, self.tiles, self.inner, dy, dx)
        shares = self.memory_if(b.workspace.get("shares"))
        return sum_channels(self.device, self.sums, dy, None, shares, dx, adds=False)


def make_tile(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    return Tile(nodes, device) if fits(nodes) else None


FORMS: dict[tuple[str, ...], Maker] = {("Tile",): make_tile}
