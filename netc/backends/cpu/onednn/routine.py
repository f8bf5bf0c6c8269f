"""Routines: primitives that run one after the other on named arrays.

A routine is written before memory is planned: its operands are named and described, and primitives are added
that read and write them. Where a primitive wants an operand in another layout than it has, the routine
reorders it through memory of its own. When the arrays are there, `bind` makes all that oneDNN needs to run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from netc.backends.cpu.onednn import kinds
from netc.backends.cpu.onednn.engine import Engine
from netc.backends.cpu.onednn.memory import Descriptor, Memory
from netc.backends.cpu.onednn.primitive import (
    Argument,
    Primitive,
    PrimitiveDescriptor,
    describe_reorder,
)
from netc.layer import Array, Scratch

SCRATCHPAD: Final = "scratchpad"
Arguments = Mapping[int, str]  # a primitive's arguments by number: operands' names


@dataclass(frozen=True)
class Step:
    """A primitive with the names of its operands."""

    primitive: Primitive
    arguments: Arguments
    scratchpad: Descriptor
    description: PrimitiveDescriptor


class Routine:
    """Primitives in the order they run."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.operands: dict[str, Descriptor] = {}
        self.steps: list[Step] = []
        self._own: list[str] = []
        self._copies: dict[str, list[str]] = {}  # by operand: what it has been reordered into

    def operand(self, name: str, descriptor: Descriptor) -> str:
        """Names an array that `bind` is given."""
        self.operands[name] = descriptor
        return name

    def temporary(self, name: str, descriptor: Descriptor) -> str:
        """Names an array of the routine's own, which holds nothing between two runs."""
        name = f"{name} {len(self._own)}"
        self._own.append(name)
        return self.operand(name, descriptor)

    def add(
        self,
        primitive: PrimitiveDescriptor,
        reads: Arguments,
        writes: Arguments,
        adds: Arguments | None = None,
    ) -> None:
        """A primitive that reads and writes these operands, and adds to some, each in whatever layout it
        has."""
        arguments = {number: self._read(name, primitive.argument(number)) for number, name in reads.items()}
        results = []
        for number, name in writes.items():
            wanted = primitive.argument(number)
            if self.operands[name].is_like(wanted):
                arguments[number] = name
                self._copies.pop(name, None)
            else:
                arguments[number] = self.temporary(name, wanted)
                results.append((arguments[number], name, False))
        for number, name in (adds or {}).items():
            arguments[number] = self.temporary(name, primitive.argument(number))
            results.append((arguments[number], name, True))
        self.add_as_given(primitive, arguments)
        for source, target, sum_up in results:
            self.reorder(source, target, add=sum_up)

    def add_as_given(self, primitive: PrimitiveDescriptor, arguments: Arguments) -> None:
        """A primitive on operands that lie as it wants them."""
        self.steps.append(Step(Primitive(primitive), dict(arguments), primitive.scratchpad, primitive))

    def reorder(self, source: str, target: str, *, add: bool = False) -> None:
        """Copies an operand into another one's layout, or adds it to what is there."""
        sides = (self.operands[source], self.operands[target])
        primitive = describe_reorder(self.engine, *sides, add=add)
        self.add_as_given(primitive, {kinds.SOURCE: source, kinds.DESTINATION: target})
        self._copies.pop(target, None)

    @property
    def is_slow(self) -> bool:
        """Whether oneDNN would compute any part of it with its fallback."""
        return any(step.description.is_slow for step in self.steps)

    @property
    def workspace(self) -> dict[str, Scratch]:
        """The arrays of its own that `bind` must be given."""
        sizes = {name: self.operands[name].nbytes for name in self._own}
        sizes[SCRATCHPAD] = max((step.scratchpad.nbytes for step in self.steps), default=0)
        return {name: Scratch((nbytes,), np.uint8) for name, nbytes in sizes.items() if nbytes}

    def bind(self, arrays: Mapping[str, Array], workspace: Mapping[str, Array]) -> Execution:
        """What runs the primitives on these arrays: those of `operand` by name, and those of `workspace`."""
        memories: dict[str, Memory] = {}
        calls = []
        for step in self.steps:
            for name in step.arguments.values():
                if name not in memories:
                    array = workspace[name] if name in self._own else arrays[name]
                    memories[name] = Memory(self.operands[name], array)
            bound = {number: memories[name] for number, name in step.arguments.items()}
            if step.scratchpad.nbytes:
                bound[kinds.SCRATCHPAD] = Memory(step.scratchpad, workspace[SCRATCHPAD])
            calls.append((step.primitive, bound))
        return Execution(self.engine, calls)

    def _read(self, name: str, wanted: Descriptor) -> str:
        """The operand, or a copy of it in the layout that is wanted."""
        for candidate in (name, *self._copies.get(name, ())):
            if self.operands[candidate].is_like(wanted):
                return candidate
        copy = self.temporary(name, wanted)
        self.reorder(name, copy)
        self._copies.setdefault(name, []).append(copy)
        return copy


class Execution:
    """Primitives bound to their memories; calling it runs them. Holds all that they need."""

    __slots__ = ("_calls", "_execute", "_held")

    def __init__(self, engine: Engine, calls: list[tuple[Primitive, dict[int, Memory]]]) -> None:
        self._held = calls
        self._execute = engine.functions["primitive_execute"]
        self._calls = []
        for primitive, memories in calls:
            arguments = [Argument(number, memory._as_parameter_) for number, memory in memories.items()]
            array = (Argument * len(arguments))(*arguments)
            self._calls.append((primitive._as_parameter_, engine.stream, len(arguments), array))

    def __call__(self) -> None:
        execute = self._execute
        for primitive, stream, count, arguments in self._calls:
            if status := execute(primitive, stream, count, arguments):
                self._fail(status)

    def _fail(self, status: int) -> None:
        primitive, _ = self._held[0]
        primitive.engine.functions.check(status, "primitive_execute")
