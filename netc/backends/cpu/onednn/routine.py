"""Routines: primitives that run one after the other on named arrays.

A routine is written before memory is planned: its operands are named and described, and primitives are added
that read and write them. Where a primitive wants an operand in another layout than it has, the routine
reorders it through memory of its own; a routine may also round what primitives multiply. When the arrays are
there, `bind` makes all that oneDNN needs to run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import as_strided

from netc.backends.cpu.chain import in_sequence
from netc.backends.cpu.loops.native_job import PRIMITIVE
from netc.backends.cpu.native_calls import Call, Native, address_of
from netc.backends.cpu.onednn import kinds
from netc.backends.cpu.onednn.engine import Engine
from netc.backends.cpu.onednn.memory import Descriptor, Memory
from netc.backends.cpu.onednn.primitive import (
    Argument,
    Primitive,
    PrimitiveDescriptor,
    describe_reorder,
)
from netc.backends.form import Run
from netc.layer import Array, Scratch

SCRATCHPAD: Final = "scratchpad"
FLOAT: Final = np.dtype(np.float32)
Arguments = Mapping[int, str]  # a primitive's arguments by number: operands' names
Rounding = Callable[[Array, Array], Run]  # what writes the first flat array's floats to the second, rounded
Bound = tuple[Primitive, dict[int, Memory]]  # a primitive and its arguments by number


@dataclass(frozen=True)
class Step:
    """A primitive with the names of its operands."""

    primitive: Primitive
    arguments: Arguments
    scratchpad: Descriptor
    description: PrimitiveDescriptor


@dataclass(frozen=True)
class RoundingStep:
    """The names of an operand whose floats are rounded, and of the one that takes them, which may be it."""

    source: str
    target: str


class Routine:
    """Primitives in the order they run. rounding: what rounds the factors of products (`kinds.FACTORS`) that
    a primitive takes in float32; None where they stay as they are."""

    def __init__(self, engine: Engine, rounding: Rounding | None = None) -> None:
        self.engine = engine
        self.rounding = rounding
        self.operands: dict[str, Descriptor] = {}
        self.steps: list[Step | RoundingStep] = []
        self._own: list[str] = []
        self._rounded: set[str] = set()  # operands whose values are rounded already
        # By operand, and whether its values stayed what they were: what it has been brought into.
        self._copies: dict[tuple[str, bool], list[str]] = {}

    @property
    def primitives(self) -> list[Step]:
        """The steps that are oneDNN's."""
        return [step for step in self.steps if isinstance(step, Step)]

    def operand(self, name: str, descriptor: Descriptor, *, rounded: bool = False) -> str:
        """Names an array that `bind` is given. rounded: it holds factors that are rounded already."""
        self.operands[name] = descriptor
        if rounded:
            self._rounded.add(name)
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
        arguments = {
            number: self._read(name, primitive.argument(number), number in kinds.FACTORS)
            for number, name in reads.items()
        }
        results = []
        for number, name in writes.items():
            wanted = primitive.argument(number)
            if self.operands[name].is_like(wanted):
                arguments[number] = name
                self._forget_copies(name)
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
        self._forget_copies(target)

    def bring(self, source: str, target: str) -> None:
        """Copies factors into another operand's layout, rounded."""
        if self.rounding is None or self.operands[target].dtype != kinds.FLOAT32:
            self.reorder(source, target)
            return
        if not self.operands[source].is_like(self.operands[target]):
            self.reorder(source, target)
            source = target
        self.steps.append(RoundingStep(source, target))

    @property
    def is_slow(self) -> bool:
        """Whether oneDNN would compute any part of it with its fallback."""
        return any(step.description.is_slow for step in self.primitives)

    @property
    def workspace(self) -> dict[str, Scratch]:
        """The arrays of its own that `bind` must be given."""
        sizes = {name: self.operands[name].nbytes for name in self._own}
        sizes[SCRATCHPAD] = max((step.scratchpad.nbytes for step in self.primitives), default=0)
        return {name: Scratch((nbytes,), np.uint8) for name, nbytes in sizes.items() if nbytes}

    def bind(self, arrays: Mapping[str, Array], workspace: Mapping[str, Array]) -> Run:
        """What runs the primitives on these arrays: those of `operand` by name, and those of `workspace`."""
        memories: dict[str, Memory] = {}
        runs: list[Run] = []
        calls: list[Bound] = []

        def array_of(name: str) -> Array:
            return workspace[name] if name in self._own else arrays[name]

        for step in self.steps:
            if isinstance(step, RoundingStep):
                assert self.rounding is not None
                runs += [Execution(self.engine, calls)] if calls else []
                calls = []
                sides = (step.source, step.target)
                runs.append(self.rounding(*(floats_of(array_of(n), self.operands[n].nbytes) for n in sides)))
                continue
            for name in step.arguments.values():
                if name not in memories:
                    memories[name] = Memory(self.operands[name], array_of(name))
            bound = {number: memories[name] for number, name in step.arguments.items()}
            if step.scratchpad.nbytes:
                bound[kinds.SCRATCHPAD] = Memory(step.scratchpad, workspace[SCRATCHPAD])
            calls.append((step.primitive, bound))
        return in_sequence([*runs, Execution(self.engine, calls)] if calls or not runs else runs)

    def _read(self, name: str, wanted: Descriptor, is_factor: bool) -> str:
        """The operand, or a copy of it as it is wanted."""
        exact = self.rounding is None or not is_factor or name in self._rounded
        copies = self._copies.setdefault((name, exact), [])
        for candidate in [name, *copies] if exact else copies:
            if self.operands[candidate].is_like(wanted):
                return candidate
        copy = self.temporary(name, wanted)
        if exact:
            self.reorder(name, copy)
        else:
            self.bring(name, copy)
        copies.append(copy)
        return copy

    def _forget_copies(self, name: str) -> None:
        for exact in (False, True):
            self._copies.pop((name, exact), None)


def floats_of(array: Array, nbytes: int) -> Array:
    """The memory of a dense array of so many bytes, as a flat array of floats."""
    floats = array if array.dtype == FLOAT else array[:nbytes].view(FLOAT)
    return as_strided(floats, (nbytes // FLOAT.itemsize,), (FLOAT.itemsize,))


class Execution(Native):
    """Primitives bound to their memories; calling it runs them. Holds all that they need."""

    __slots__ = ("_calls", "_execute", "_held")

    def __init__(self, engine: Engine, calls: list[Bound]) -> None:
        self._held = calls
        self._execute = engine.functions["primitive_execute"]
        self._calls = []
        for primitive, memories in calls:
            arguments = [Argument(number, memory._as_parameter_) for number, memory in memories.items()]
            array = (Argument * len(arguments))(*arguments)
            self._calls.append((primitive._as_parameter_, engine.stream, len(arguments), array))

    def __call__(self) -> None:
        execute = self._execute
        for place, (primitive, stream, count, arguments) in enumerate(self._calls):
            if status := execute(primitive, stream, count, arguments):
                self.fail(place, status)

    @property
    def calls(self) -> list[Call]:
        execute = address_of(self._execute)
        return [
            (PRIMITIVE, execute, primitive.value or 0, stream.value or 0, count, ctypes.addressof(arguments))
            for primitive, stream, count, arguments in self._calls
        ]

    def fail(self, place: int, status: int) -> None:
        primitive, _ = self._held[place]
        primitive.engine.functions.check(status, "primitive_execute")
