"""What tells the layers of a net apart: a layer's name, and for a later layer of the same name its number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple


class Namesake(NamedTuple):
    """A layer whose name an earlier one has too; `number` is 2 for the second of the name."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}#{self.number}"


LayerKey = str | Namesake
"""A layer's name, which is enough for the first layer of a name, or a Namesake."""


def nth_key(name: str, number: int) -> LayerKey:
    """The key of the number-th layer of a name, from 1 on."""
    return name if number == 1 else Namesake(name, number)


def layer_keys(names: Iterable[str]) -> list[LayerKey]:
    """The keys of layers of these names, in this order."""
    met: Counter[str] = Counter()
    keys = []
    for name in names:
        met[name] += 1
        keys.append(nth_key(name, met[name]))
    return keys


def name_of(layer: LayerKey) -> str:
    """The name that the prototxt gives a layer."""
    return layer.name if isinstance(layer, Namesake) else layer


def part_name(layer: LayerKey, part: str | int) -> str:
    """The name of a layer's parameter (by its index) or state, which no other of the net has."""
    if isinstance(layer, Namesake):
        return f"{layer.name}/{part}#{layer.number}"
    return f"{layer}/{part}"
