"""How primitives may take what a layer with filters multiplies, and which primitive is the fastest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from netc.backends.cpu.geometry import Geometry
from netc.backends.cpu.layout import IMAGE_CHANNELS, descriptor_of
from netc.backends.cpu.onednn import Descriptor, Engine, PrimitiveDescriptor, Refused
from netc.backends.form import BLOCKED, PLAIN
from netc.layer import Shape


@dataclass(frozen=True)
class Factors:
    """The bottom, the weights and the top (or its gradient) of one type."""

    bottom: Descriptor
    weight: Descriptor
    top: Descriptor

    @classmethod
    def of(
        cls, engine: Engine, geometry: Geometry, bottom: str, top: str, inside: str | None, dtype: int
    ) -> Factors:
        """As they lie, unless they lie plain. bottom, top: their layouts; inside: what plain ones are brought
        into; None: the primitive's choice."""

        def taken(shape: Shape, layout: str | None) -> Descriptor:
            if layout is None:
                return Descriptor.any(engine, shape, dtype)
            return descriptor_of(engine, shape, layout, dtype)

        images = geometry.bottom[1] <= IMAGE_CHANNELS and inside != BLOCKED
        inner_bottom = None if images else inside
        return cls(
            taken(geometry.bottom, inner_bottom if bottom == PLAIN else bottom),
            taken(geometry.weight, None),
            taken(geometry.top, inside if top == PLAIN else top),
        )


def fastest(
    factors: Sequence[Factors], primitive_on: Callable[[Factors], PrimitiveDescriptor]
) -> PrimitiveDescriptor:
    """The primitive on the first of these factors for which there is a fast one, else on the last. Raises
    Refused where there is none on these either."""
    *narrow, last = factors
    for candidate in narrow:
        with suppress(Refused):
            primitive = primitive_on(candidate)
            if not primitive.is_slow:
                return primitive
    return primitive_on(last)
