"""Reshape and Flatten: the same memory under another shape."""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Buffers, Layer, Shape, count
from netc.layer.registry import register


class View(Layer):
    """The top is the bottom's memory, and so are their gradients: nothing is computed."""

    shares_data = True
    shares_diff = True
    backward_bottoms = ()
    backward_tops = ()

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        """Nothing: the top is the bottom's memory."""

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        """Nothing: the gradients are one memory too."""


@register
class Flatten(View):
    """The axes from `axis` (1) to `end_axis` (the last), both included, become one."""

    type = "Flatten"
    options_field = "flatten_param"

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape = bottoms[0]
        start = self.canonical_axis(self.options.axis, len(shape))
        stop = self.canonical_axis(self.options.end_axis, len(shape), "end_axis") + 1
        if stop < start:
            raise self.error(
                "end_axis lies before axis",
                "end_axis",
                expected=f"{start} or more",
                found=self.options.end_axis,
            )
        return [(*shape[:start], count(shape[start:stop]), *shape[stop:])]


@register
class Reshape(View):
    """The axes from `axis` on, `num_axes` of them (-1: all), are replaced by `shape`.

    In `shape`, 0 copies the bottom's axis at the same place, one -1 takes what the count leaves.
    """

    type = "Reshape"
    options_field = "reshape_param"

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape = bottoms[0]
        start, stop = self._replaced(len(shape))
        wanted = list(self.options.shape.dim)
        if wanted.count(-1) > 1 or min(wanted, default=0) < -1:
            raise self.error("shape may hold one -1, and no other negative number", "shape", found=wanted)
        for i, dim in enumerate(wanted):
            if dim == 0:
                if start + i >= len(shape):
                    raise self.error(
                        f"dim 0 at place {i} of shape copies axis {start + i}, which does not exist",
                        "shape",
                        expected=f"an axis of {list(shape)}",
                    )
                wanted[i] = shape[start + i]
        kept = count(shape[:start]) * count(shape[stop:])
        if -1 in wanted:
            known = kept * count([dim for dim in wanted if dim != -1])
            if known == 0 or count(shape) % known:
                raise self._count_error(shape, wanted)
            wanted[wanted.index(-1)] = count(shape) // known
        elif kept * count(wanted) != count(shape):
            raise self._count_error(shape, wanted)
        return [shape[:start] + tuple(wanted) + shape[stop:]]

    def _replaced(self, ndim: int) -> tuple[int, int]:
        """The axes that `shape` replaces, start to stop; -1 starts behind the last one, as in Caffe."""
        axis, num_axes = self.options.axis, self.options.num_axes
        start = axis if axis >= 0 else ndim + axis + 1
        if not 0 <= start <= ndim:
            raise self.error(
                f"axis {axis} does not exist", "axis", expected=f"{-ndim - 1} to {ndim}", found=axis
            )
        stop = ndim if num_axes == -1 else start + num_axes
        if not start <= stop <= ndim:
            raise self.error(
                "num_axes reaches beyond the bottom's axes",
                "num_axes",
                expected=f"-1 (all), or 0 to {ndim - start}",
                found=num_axes,
            )
        return start, stop

    def _count_error(self, shape: Shape, wanted: list[int]) -> Exception:
        return self.error(
            f"cannot reshape {list(shape)}: the counts do not agree",
            "shape",
            expected=f"{count(shape)} elements",
            found=f"shape {wanted}",
            remedy="use -1 for one of the dims, 0 to copy one",
        )
