"""How large a blob may be at most: beyond that no machine holds it, and byte counts stop being sure."""

from __future__ import annotations

from typing import Final

from netc.layer.base import Layer, Shape, count

MOST_ELEMENTS: Final = 1 << 40


def check_size(layer: Layer, what: str, shape: Shape) -> None:
    """Raises NetcError, at the layer, for a shape that no array can have. what: the blob, in words."""
    if any(n < 0 for n in shape):
        raise layer.error(f"{what} would have a negative size", found=list(shape))
    if count(shape) > MOST_ELEMENTS:
        raise layer.error(
            f"{what} would be too large for any machine",
            expected=f"at most {MOST_ELEMENTS:,} elements",
            found=f"{list(shape)}: {count(shape):,} elements",
            remedy="check the sizes of the layer and of its inputs for a slip of the pen",
        )
