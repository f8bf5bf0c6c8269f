"""Concat joins blobs along an axis, Slice takes one apart."""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType

from netc.layer.base import Arity, Array, Buffers, Layer, Shape
from netc.layer.registry import register


class AlongAxis(Layer):
    """A layer with `axis` (1 unless stated) and an older option that means the same."""

    older_axis: str  # the older option's name
    backward_bottoms = ()
    backward_tops = ()

    def chosen_axis(self, ndim: int) -> int:
        """The axis as an index from 0."""
        older = self.older_axis
        if not self.options.HasField(older):
            return self.canonical_axis(self.options.axis, ndim)
        if self.options.HasField("axis"):
            raise self.error(f"both axis and {older} are stated", older, remedy=f"keep axis, drop {older}")
        return self.canonical_axis(getattr(self.options, older), ndim, older)

    def share_whole(self, parts: int) -> None:
        """Where there is one part, it is the whole: nothing is copied."""
        # Of an object, not of the class: the graph asks after `infer`.
        self.shares_data = self.shares_diff = parts == 1  # type: ignore[misc]


@register
class Concat(AlongAxis):
    """The bottoms, one behind another along `axis`; their other axes agree.

    With one bottom the top is that bottom's memory, as in Caffe.
    """

    type = "Concat"
    options_field = "concat_param"
    bottoms = Arity(1, None)
    older_axis = "concat_dim"

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        first = bottoms[0]
        self.axis = axis = self.chosen_axis(len(first))
        for i, shape in enumerate(bottoms):
            if (
                len(shape) != len(first)
                or shape[:axis] + shape[axis + 1 :] != first[:axis] + first[axis + 1 :]
            ):
                raise self.error(
                    f"the bottoms of a Concat may differ along axis {axis} only",
                    blob=self.spec.bottom[i],
                    expected=f"{list(first)} but for axis {axis}, as {self.spec.bottom[0]!r}",
                    found=list(shape),
                )
        self.share_whole(len(bottoms))
        return [(*first[:axis], sum(shape[axis] for shape in bottoms), *first[axis + 1 :])]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        if not self.shares_data:
            xp.concatenate(b.bottoms, axis=self.axis, out=b.tops[0])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        if self.shares_diff:
            return
        dy: Array = b.top_grads[0]
        start = 0
        for shape, dx in zip(self.bottom_shapes, b.bottom_grads, strict=True):
            stop = start + shape[self.axis]
            if dx is not None:
                dx[...] = dy[_section(self.axis, start, stop)]
            start = stop


@register
class Slice(AlongAxis):
    """The bottom cut along `axis` at `slice_point`s, or into equal parts: one top each.

    A single top is the bottom's memory, as in Caffe.
    """

    type = "Slice"
    options_field = "slice_param"
    tops = Arity(1, None)
    older_axis = "slice_dim"

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape, tops = bottoms[0], len(self.spec.top)
        self.axis = self.chosen_axis(len(shape))
        size = shape[self.axis]
        points = list(self.options.slice_point)
        if points:
            self._check_points(points, size, tops)
        elif size % tops:
            raise self.error(
                f"axis {self.axis} cannot be cut into {tops} equal parts",
                expected=f"a multiple of {tops}",
                found=size,
                remedy="state slice_point",
            )
        else:
            points = [size // tops * i for i in range(1, tops)]
        self.share_whole(tops)
        self.bounds = [0, *points, size]
        return [
            (*shape[: self.axis], stop - start, *shape[self.axis + 1 :])
            for start, stop in pairwise(self.bounds)
        ]

    def _check_points(self, points: list[int], size: int, tops: int) -> None:
        if len(points) != tops - 1:
            raise self.error(
                "one slice_point less than tops is needed",
                "slice_point",
                expected=tops - 1,
                found=len(points),
            )
        bounds = [0, *points, size]
        if any(stop <= start for start, stop in pairwise(bounds)):
            raise self.error(
                "slice_points must rise, and leave something in every top",
                "slice_point",
                expected=f"rising numbers from 1 to {size - 1}",
                found=points,
            )

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        if self.shares_data:
            return
        for i, y in enumerate(b.tops):
            y[...] = b.bottoms[0][_section(self.axis, self.bounds[i], self.bounds[i + 1])]

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        if self.shares_diff:
            return
        dx: Array = b.bottom_grads[0]
        for i, dy in enumerate(b.top_grads):
            dx[_section(self.axis, self.bounds[i], self.bounds[i + 1])] = 0 if dy is None else dy


def _section(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    """The index of start..stop along an axis."""
    return (slice(None),) * axis + (slice(start, stop),)
