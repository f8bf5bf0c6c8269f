"""Batches on their way from data sources into a program's arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netc.backends.backend import Backend
from netc.backends.form import Run
from netc.layer import Array, Shape, SourceLayer
from netc.runtime.program import Program
from netc.schema.layer_keys import LayerKey, layer_keys


@dataclass(frozen=True)
class Feed:
    """One data layer of a program: its place among the nodes, its source, and where batches go.

    bring_in: the backend's own way to do that; None: batches come finished and are copied. usual: the
    source's tops when the program was made, where they have its shapes.
    """

    place: int
    source: Any
    shapes: tuple[Shape, ...]
    tops: list[Array]
    bring_in: Run | None
    usual: Any

    @property
    def coming(self) -> tuple[Shape, ...]:
        """The shapes of the next batch."""
        return shapes_of(self.source)

    @property
    def fits(self) -> bool:
        """Whether the next batch has the program's shapes."""
        return self.source.tops is self.usual or self.coming == self.shapes

    def pull(self, backend: Backend) -> None:
        """Brings the next batch in."""
        if self.bring_in is not None:
            self.bring_in()
            return
        for top, batch in zip(self.tops, self.source.next(), strict=True):
            backend.write(top, batch)


def shapes_of(source: Any) -> tuple[Shape, ...]:
    """The shapes of a source's next batch."""
    return tuple(tuple(top.shape) for top in source.tops)


def feeds_of(program: Program, sources: Mapping[LayerKey, Any]) -> list[Feed]:
    """The data layers of a program, in order."""
    nodes = program.graph.nodes
    keys = layer_keys(node.name for node in nodes)
    return [
        Feed(
            place,
            source,
            shapes,
            tops,
            program.backend.feed(source, tops),
            None if source.varies or shapes_of(source) != shapes else source.tops,
        )
        for place, (node, key) in enumerate(zip(nodes, keys, strict=True))
        if isinstance(node.layer, SourceLayer)
        for source, tops in [(sources[key], program.buffers[node].tops)]
        for shapes in [tuple(value.shape for value in node.outputs)]
    ]
