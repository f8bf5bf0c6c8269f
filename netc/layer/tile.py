"""Tile: copies of a blob one behind another."""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Array, Buffers, Layer, Shape, count
from netc.layer.registry import register


@register
class Tile(Layer):
    """`tiles` copies of the bottom, one behind another along `axis` (1 unless stated).

    Shapes: (N, C, H, W) to (N, tiles C, H, W) for axis 1. dx is the sum of the copies' gradients.
    """

    type = "Tile"
    options_field = "tile_param"
    backward_bottoms = ()
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape, tiles = bottoms[0], self.options.tiles
        axis = self.canonical_axis(self.options.axis, len(shape))
        if tiles < 1:
            raise self.error(
                "the number of copies is missing or below 1",
                *(["tiles"] if self.options.HasField("tiles") else []),
                expected="tiles of at least 1",
                found=tiles,
                remedy="add `tiles: 2`",
            )
        self.outer, self.inner = count(shape[:axis]), count(shape[axis:])
        return [(*shape[:axis], tiles * shape[axis], *shape[axis + 1 :])]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        copies = b.tops[0].reshape(self.outer, self.options.tiles, self.inner)
        copies[...] = b.bottoms[0].reshape(self.outer, 1, self.inner)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dy: Array = b.top_grads[0]
        dx: Array = b.bottom_grads[0]
        copies = dy.reshape(self.outer, self.options.tiles, self.inner)
        copies.sum(axis=1, out=dx.reshape(self.outer, self.inner))
