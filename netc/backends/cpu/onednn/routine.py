"""Routines: primitives that run one after the other on named arrays.

A routine is written before memory is planned: its operands are named and described, and primitives are added
that read and write them. Where a primitive wants an operand in another layout than it has, the routine
reorders it into memory of its own. When the arrays are there, `bind` makes all that oneDNN needs to run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from netc.backends.cpu.onednn import kinds
from netc.backends.cpu.onednn.engine import Engine
from netc.backends.cpu.onednn.memory import Descriptor, Memory
from netc.backends.cpu.onednn.primitive import Argument, Attributes, Primitive, PrimitiveDescriptor
from netc.layer import Scratch

SCRATCHPAD: Final = "scratchpad"
Arguments = Mapping[int, str]  # a primitive's arguments by number: the operands' names


class Routine:
    """Primitives in the order they run. `prefix` tells its own arrays from those of other routines."""

    def __init__(self, engine: Engine, prefix: str = "") -> None:
        self.engine = engine
        self.prefix = prefix
        self.operands: dict[str, Descriptor] = {}
        self._own: set[str] = set()
        self._scratchpad_bytes = 0
        self._reordered: dict[str, list[str]] = {}  # an operand's copies in other layouts
        self._steps: list[tuple[Primitive, dict[int, str]]] = []
        self.implementations: list[str] = []

    def operand(self, name: str, descriptor: Descriptor) -> str:
        """Names an array that `bind` is given."""
        self.operands[name] = descriptor
        return name

    def temporary(self, name: str, descriptor: Descriptor) -> str:
        """Names an array of the routine's own, which holds nothing between two runs."""
        while name in self.operands:
            name += "'"
        self._own.add(name)
        return self.operand(name, descriptor)

    def add(
        self,
        primitive: PrimitiveDescriptor,
        reads: Arguments,
        writes: Arguments,
        adds: Arguments | None = None,
    ) -> None:
        """A primitive that reads and writes these operands, and adds to some.

        An operand in a layout of its own is reordered before, or after.
        """
        arguments, later = {}, []
        for number, name in reads.items():
            arguments[number] = self._read_as(name, primitive.argument(number))
        for number, name in writes.items():
            wanted = primitive.argument(number)
            if self.operands[name].is_like(wanted):
                arguments[number] = name
            else:
                arguments[number] = self.temporary(f"{name} reordered", wanted)
                later.append((arguments[number], name, False))
            self._reordered.pop(name, None)
        for number, name in (adds or {}).items():
            arguments[number] = self.temporary(f"{name} summand", primitive.argument(number))
            later.append((arguments[number], name, True))
        self._append(primitive, arguments)
        for source, target, add in later:
            self.reorder(source, target, add=add)

    def add_many(self, primitive: PrimitiveDescriptor, arguments: Arguments) -> None:
        """A primitive whose operands lie as it wants them, which it cannot be asked about."""
        self._append(primitive, dict(arguments))

    def reorder(self, source: str, target: str, *, add: bool = False) -> None:
        """Copies an operand into another layout, or adds it to what is there."""
        self.add_many(
            self._reordering(self.operands[source], self.operands[target], add),
            {kinds.SOURCE: source, kinds.DESTINATION: target},
        )
        self._reordered.pop(target, None)

    @property
    def workspace(self) -> dict[str, Scratch]:
        """The arrays of its own that `bind` must be given."""
        sizes = {name: self.operands[name].nbytes for name in sorted(self._own)}
        if self._scratchpad_bytes:
            sizes[SCRATCHPAD] = self._scratchpad_bytes
        return {self.prefix + name: Scratch((nbytes,), np.uint8) for name, nbytes in sizes.items()}

    def bind(self, arrays: Mapping[str, np.ndarray], workspace: Mapping[str, np.ndarray]) -> Execution:
        """What runs the primitives on these arrays: those of `operand` by name, and of `workspace`."""
        memories: dict[tuple[str, int], Memory] = {}

        def memory(name: str, descriptor: Descriptor) -> Memory:
            own = name in self._own or name == SCRATCHPAD
            array = workspace[self.prefix + name] if own else arrays[name]
            return memories.setdefault((name, descriptor.nbytes), Memory(descriptor, array))

        calls = []
        for primitive, arguments in self._steps:
            bound = [(number, memory(name, self.operands[name])) for number, name in arguments.items()]
            calls.append((primitive, bound))
        return Execution(self.engine, calls)

    def _append(self, primitive: PrimitiveDescriptor, arguments: dict[int, str]) -> None:
        scratchpad = primitive.scratchpad
        if scratchpad.nbytes:
            # Every primitive has a description of its own for the memory that all of them share in turn.
            name = f"{SCRATCHPAD}{len(self._steps)}"
            self._scratchpads[name] = scratchpad
            arguments[kinds.SCRATCHPAD] = name
        self._steps.append((Primitive(primitive), arguments))
        self.implementations.append(f"{primitive.kind} {primitive.implementation}")
