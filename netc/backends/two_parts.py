"""The arrays of a form that is made of two others: each part's under its number."""

from __future__ import annotations

from collections.abc import Mapping

from netc.layer import Array, Scratch


def both(first: Mapping[str, Scratch], second: Mapping[str, Scratch]) -> dict[str, Scratch]:
    """The arrays of both parts, each under its part's number."""
    return {
        f"{i} {name}": scratch for i, part in enumerate((first, second)) for name, scratch in part.items()
    }


def part(number: int, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays of one part, by its own names."""
    prefix = f"{number} "
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
