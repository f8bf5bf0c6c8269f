"""Receptive fields: how much of the image one cell of a blob sees, and where.

The arithmetic is that of Dang Ha The Hien, "A guide to receptive field arithmetic for convolutional neural
networks", 2017, on exact fractions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from netc.graph import Graph, Node, Value
from netc.layer.window import Window
from netc.proto import netc_pb2 as pb

TRANSPOSED_TYPES: Final = ("Deconvolution",)
# Every output of these sees every cell of its image, whatever the shapes say.
WHOLE_TYPES: Final = ("InnerProduct", "SPP", "Reduction", "MVN", "Normalize", "LSTM", "RNN")
FIRST_SPATIAL_AXIS: Final = 2


@dataclass(frozen=True)
class Extent:
    """Along one axis: cell 0 sees the pixels from `low` to `high`, each next cell those `stride` further."""

    low: Fraction = Fraction(0)
    high: Fraction = Fraction(0)
    stride: Fraction = Fraction(1)

    @property
    def size(self) -> Fraction:
        return self.high - self.low + 1

    @property
    def centre(self) -> Fraction:
        """Of cell 0's field, in pixels; the first pixel is 0."""
        return (self.low + self.high) / 2

    def through(self, kernel: int, stride: int, pad: int) -> Extent:
        """What a cell sees behind a window of `kernel` cells, gaps included."""
        step = self.stride
        return Extent(self.low - pad * step, self.high + (kernel - 1 - pad) * step, step * stride)

    def through_transposed(self, kernel: int, stride: int, pad: int) -> Extent:
        """The same behind a transposed window, for the outputs that see most."""
        centre = self.centre + (pad - Fraction(kernel - 1, 2)) / stride * self.stride
        half = (self.size - 1 + (math.ceil(Fraction(kernel, stride)) - 1) * self.stride) / 2
        return Extent(centre - half, centre + half, self.stride / stride)


@dataclass(frozen=True)
class Field:
    """The receptive field of a blob's cells, an extent per spatial axis; `whole`: the image, all of it."""

    axes: tuple[Extent, ...] = ()
    whole: bool = False


WHOLE: Final = Field(whole=True)


def receptive_fields(graph: Graph) -> dict[Value, Field | None]:
    """The field of every value with respect to the images that the net reads; None where there is none to
    speak of (labels, flattened blobs, branches whose strides differ)."""
    fields: dict[Value, Field | None] = {}
    for node in graph.nodes:
        if not node.inputs:
            for value in node.outputs:
                axes = len(value.shape) - FIRST_SPATIAL_AXIS
                fields[value] = Field((Extent(),) * axes) if axes > 0 else None
            continue
        for value in node.outputs:
            fields[value] = _field(node, value, [(read, fields[read]) for read in node.inputs])
    return fields


def _field(node: Node, made: Value, read: Sequence[tuple[Value, Field | None]]) -> Field | None:
    if any(field is not None and field.whole for _, field in read) or node.type in WHOLE_TYPES:
        return WHOLE
    first = read[0][1]
    window = _window(node)
    if window is not None:
        if first is None or len(first.axes) != len(window.kernel):
            return None
        slides = zip(first.axes, window.extent, window.stride, window.pad, strict=True)
        if node.type in TRANSPOSED_TYPES:
            return Field(tuple(axis.through_transposed(*slide) for axis, *slide in slides))
        return Field(tuple(axis.through(*slide) for axis, *slide in slides))
    return _union([field for value, field in read if field is not None and _same_cells(value, made)])


def _window(node: Node) -> Window | None:
    window = getattr(node.layer, "window", None)
    if isinstance(window, Window):
        return window
    options = node.layer.spec.lrn_param
    if node.type == "LRN" and options.norm_region == pb.LRNParameter.WITHIN_CHANNEL:
        size = options.local_size
        return Window((size, size), (1, 1), (size // 2, size // 2), (1, 1))
    return None


def _same_cells(read: Value, made: Value) -> bool:
    spatial = made.shape[FIRST_SPATIAL_AXIS:]
    return bool(spatial) and read.shape[FIRST_SPATIAL_AXIS:] == spatial


def _union(fields: Sequence[Field]) -> Field | None:
    """What a cell sees that is made from the cells at its place in several blobs."""
    if not fields or any(
        [a.stride for a in field.axes] != [a.stride for a in fields[0].axes] for field in fields
    ):
        return None
    return Field(
        tuple(
            Extent(min(axis.low for axis in axes), max(axis.high for axis in axes), axes[0].stride)
            for axes in zip(*(field.axes for field in fields), strict=True)
        )
    )
