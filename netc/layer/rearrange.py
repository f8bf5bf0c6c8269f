"""Layers that put values in other places: Permute (axes in another order) and ShuffleChannel."""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Buffers, Layer, Shape, count
from netc.layer.registry import register


@register
class Permute(Layer):
    """The axes in another order: axis i of the top is axis `order[i]` of the bottom.

    Axes that `order` does not list follow in their own order. Where nothing moves, the top is the bottom's
    memory. (Liu et al., "SSD", 2016: N C H W predictions become N H W C.)
    """

    type = "Permute"
    options_field = "permute_param"
    backward_bottoms = ()
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape = bottoms[0]
        order = list(self.options.order)
        for axis in order:
            if axis >= len(shape):
                raise self.error(
                    f"axis {axis} does not exist in a blob of {len(shape)} axes",
                    "order",
                    expected=f"0 to {len(shape) - 1}",
                    found=axis,
                )
        if len(set(order)) != len(order):
            raise self.error("an axis is listed twice", "order", found=order, remedy="list each axis once")
        order += [axis for axis in range(len(shape)) if axis not in order]
        self.order = tuple(order)
        self.back = tuple(order.index(axis) for axis in range(len(order)))
        # Of an object, not of the class: the graph asks after `infer`.
        self.shares_data = self.shares_diff = order == sorted(order)  # type: ignore[misc]
        return [tuple(shape[axis] for axis in order)]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        if not self.shares_data:
            b.tops[0][...] = b.bottoms[0].transpose(self.order)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        if not self.shares_diff and b.bottom_grads[0] is not None:
            b.bottom_grads[0][...] = b.top_grads[0].transpose(self.back)  # type: ignore[union-attr]


@register
class ShuffleChannel(Layer):
    """The channels of `group` groups interleaved: (N, G C, ...) seen as N x G x C becomes N x C x G.

    (Zhang et al., "ShuffleNet", 2018)
    """

    type = "ShuffleChannel"
    options_field = "shuffle_channel_param"
    backward_bottoms = ()
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape, group = bottoms[0], self.options.group
        if len(shape) < 2:
            raise self.error(
                "ShuffleChannel needs a channel axis",
                blob=self.spec.bottom[0],
                expected="at least 2 axes",
                found=shape,
            )
        if group < 1 or shape[1] % group:
            raise self.error(
                f"the {shape[1]} channels cannot be split into {group} equal groups",
                "group",
                expected=f"a divisor of {shape[1]}",
                found=group,
            )
        self.groups = (shape[0], group, shape[1] // group, count(shape[2:]))
        return [shape]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        images, group, channels, cells = self.groups
        shuffled = b.tops[0].reshape(images, channels, group, cells)
        shuffled[...] = b.bottoms[0].reshape(self.groups).swapaxes(1, 2)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        images, group, channels, cells = self.groups
        if b.bottom_grads[0] is not None:
            dy = b.top_grads[0].reshape(images, channels, group, cells)  # type: ignore[union-attr]
            b.bottom_grads[0].reshape(self.groups)[...] = dy.swapaxes(1, 2)
