"""A net as a plain list of operations: what a peer needs to build it, without netc."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Operation:
    """One operation: its kind, the numbers of the values that it reads and makes, its options.

    params: (name of the stored array, lr_mult, decay_mult) of each parameter; shape: of its first output.
    """

    kind: str
    name: str
    inputs: list[int]
    outputs: list[int]
    options: dict[str, Any] = field(default_factory=dict)
    params: list[tuple[str, float, float]] = field(default_factory=list)
    shape: list[int] = field(default_factory=list)


@dataclass
class Recipe:
    """A net: its inputs and outputs by blob name, its operations in order, its losses with their weights."""

    name: str
    inputs: dict[str, int]
    operations: list[Operation]
    losses: list[tuple[int, float]]
    outputs: dict[str, int]

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Recipe:
        read = json.loads(text)
        read["operations"] = [Operation(**operation) for operation in read["operations"]]
        return cls(**read)
