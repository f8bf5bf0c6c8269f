"""Parameters in one flat arena, their gradients in another of the same layout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from netc.backends.backend import Backend
from netc.graph import Param
from netc.layer import Array, Shape
from netc.layer.base import count
from netc.schema.layer_keys import LayerKey, part_name

ALIGNMENT = 16  # elements: every parameter begins on a cache line


@dataclass(frozen=True)
class Segment:
    """One learnable parameter's place in the arenas, and the rates that multiply the solver's."""

    name: str
    layer: LayerKey
    index: int
    offset: int
    count: int
    shape: Shape
    lr_mult: float
    decay_mult: float


class Parameters:
    """`data` and `grad`: flat arrays that hold every owned parameter, in the order of the net; gaps hold
    zeros."""

    def __init__(self, params: Iterable[Param], backend: Backend, dtype: type) -> None:
        self.segments: list[Segment] = []
        offset = 0
        for param in params:
            name = param.name or part_name(param.layer, param.index)
            size = count(param.shape)
            self.segments.append(
                Segment(
                    name, param.layer, param.index, offset, size, param.shape, param.lr_mult, param.decay_mult
                )
            )
            offset += _aligned(size)
        self.data: Array = backend.allocate(offset * dtype().itemsize).view(dtype)
        self.grad: Array = backend.allocate(offset * dtype().itemsize).view(dtype)

    def view(self, flat: Array, segment: Segment) -> Array:
        """A segment of `data`, `grad` or an array of their layout, in the parameter's shape."""
        return flat[segment.offset : segment.offset + segment.count].reshape(segment.shape)


def flat_elements(params: Iterable[Param]) -> int:
    """The elements of an arena that holds these."""
    return sum(_aligned(count(param.shape)) for param in params)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
