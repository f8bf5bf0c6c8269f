"""Where activations lie: lifetimes over the whole forward and backward order become offsets in one arena.

Every buffer is alive from the step that first writes it to the step that last reads it. Buffers that are
never alive together may share bytes; the largest are placed first, each at the lowest offset where it fits.
What is computed again for backward has two lives, each with a buffer of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count as count_up
from typing import Any, Final, Protocol

import numpy as np

from netc.graph import Graph, Node, Value
from netc.layer import Scratch
from netc.layer.base import Indices, count

ALIGNMENT = 64  # bytes: a cache line, and what vector loads on every backend want

# (Value, "data" | "again" | "diff"), or (Unit, name of a saved array); of other arrays, what the functions
# below make of their names.
Key = tuple[Any, str]
AGAIN: Final = "again"  # the data of a value that is computed again, from then on


def workspace(direction: str, name: str) -> str:
    """What a workspace is called: that of one direction holds nothing for another."""
    return f"{name} {direction}"


def again(saved: str) -> str:
    """What a saved array is called that is computed again."""
    return f"{saved} {AGAIN}"


def before(state: str) -> str:
    """What is called what a state was before forward: computing again begins from it."""
    return f"{state} before"


def unused(param: int) -> str:
    """Where a unit that is computed again writes a parameter that its forward has changed already."""
    return f"parameter {param} {AGAIN}"


class Unit(Protocol):
    """What runs as one step of each direction: a node, or a chain of nodes that a form runs at once.

    Its saved arrays live from forward to backward, its workspaces during one step.
    """

    @property
    def nodes(self) -> Sequence[Node]: ...
    @property
    def inputs(self) -> Sequence[Value]: ...
    @property
    def outputs(self) -> Sequence[Value]: ...
    @property
    def input_needs_grad(self) -> Sequence[bool]: ...
    @property
    def needs_backward(self) -> bool: ...
    @property
    def backward_bottoms(self) -> Indices: ...
    @property
    def backward_tops(self) -> Indices: ...
    @property
    def saved(self) -> Mapping[str, Scratch]: ...
    @property
    def forward_workspace(self) -> Mapping[str, Scratch]: ...
    @property
    def backward_workspace(self) -> Mapping[str, Scratch]: ...


@dataclass(eq=False)
class Buffer:
    """A stretch of the arena: alive in steps `first` to `last`, both included."""

    nbytes: int
    first: int
    last: int
    offset: int = -1

    def overlaps(self, other: Buffer) -> bool:
        return self.first <= other.last and other.first <= self.last


Again = Mapping[Unit, Sequence[Unit]]  # by unit: whose forward runs again just before its backward


@dataclass
class Schedule:
    """The order of a program: forward of every unit, then backward of those that need it, last to first.

    again: whose forward runs once more, and before whose backward.
    """

    units: Sequence[Unit]
    backward: bool
    again: Again = field(default_factory=dict)

    def __post_init__(self) -> None:
        backward = [unit for unit in reversed(self.units) if unit.needs_backward] if self.backward else []
        steps = count_up()
        self.forward_step = {unit: next(steps) for unit in self.units}
        self.again_step: dict[Unit, int] = {}
        self.backward_step: dict[Unit, int] = {}
        for unit in backward:
            self.again_step.update((repeated, next(steps)) for repeated in self.again.get(unit, ()))
            self.backward_step[unit] = next(steps)
        self.backward_units = backward
        self.end = next(steps)
        self.steps = {
            "forward": self.forward_step,
            "again": self.again_step,
            "backward": self.backward_step,
        }


@dataclass
class MemoryPlan:
    """Offsets of every buffer in an arena of `arena_bytes`; without sharing they would take
    `unshared_bytes`.

    bytes_without, extra_work: where something is computed again, the arena without that, and the operations
    that it adds to an iteration's, as a share of them.
    """

    schedule: Schedule
    buffers: dict[Key, Buffer] = field(default_factory=dict)
    arena_bytes: int = 0
    unshared_bytes: int = 0
    bytes_without: int = 0
    extra_work: float = 0.0

    def live_bytes(self) -> np.ndarray:
        """The bytes that are alive in each step, from the one before the first on: no arena has less than
        the most of them."""
        change = np.zeros(self.schedule.end + 3, np.int64)
        for buffer in self.buffers.values():
            change[buffer.first + 1] += buffer.nbytes
            change[buffer.last + 2] -= buffer.nbytes
        return change.cumsum()[:-1]

    def place(self) -> None:
        """Gives every buffer its offset."""
        self.unshared_bytes = sum(buffer.nbytes for buffer in self.buffers.values())
        self.arena_bytes = place(self.buffers.values())

    def freed_after(self, step: int) -> list[Buffer]:
        """The buffers whose last reader is this step."""
        return [buffer for buffer in self.buffers.values() if buffer.last == step]

    def __str__(self) -> str:
        saved = 100 * (1 - self.arena_bytes / self.unshared_bytes) if self.unshared_bytes else 0.0
        sizes = f"{self.arena_bytes:,} bytes of activations instead of {self.unshared_bytes:,}"
        shared = f"{sizes} ({saved:.0f} % saved)"
        layers = sum(len(unit.nodes) for unit in self.schedule.again_step)
        if not layers:
            return shared
        repeated = f"{layers} layer{'s' if layers > 1 else ''}, {100 * self.extra_work:.1f} % more FLOPs"
        return f"{shared}; computed again for backward: {repeated}; {self.bytes_without:,} bytes without that"


def plan_memory(
    graph: Graph,
    units: Sequence[Unit],
    *,
    backward: bool,
    keep_all: bool,
    itemsize: int,
    share: bool = True,
    again: Again | None = None,
) -> MemoryPlan:
    """Plans the arena of one graph, whose nodes run as these units.

    backward: whether gradients are computed at all; keep_all: every blob stays readable after a pass, so
    no blob shares its bytes (the outputs and losses always stay); itemsize: bytes of one element of the net's
    type; share: whether buffers that are never alive together may take the same bytes; again: as in
    `Schedule`.
    """
    plan = plan_lives(graph, units, backward=backward, keep_all=keep_all, itemsize=itemsize, again=again)
    if not share:
        for buffer in plan.buffers.values():
            buffer.first, buffer.last = -1, plan.schedule.end
    plan.place()
    return plan


def plan_lives(
    graph: Graph,
    units: Sequence[Unit],
    *,
    backward: bool,
    keep_all: bool,
    itemsize: int,
    again: Again | None = None,
) -> MemoryPlan:
    """When every buffer is alive, as in `plan_memory`; none has a place yet."""
    schedule = Schedule(units, backward, again or {})
    plan = MemoryPlan(schedule)
    lifetimes = _Lifetimes(plan, itemsize, keep_all)
    for unit in units:
        lifetimes.add_forward(unit)
    for unit in schedule.again_step:
        lifetimes.add_again(unit)
    for unit in schedule.backward_units:
        lifetimes.add_backward(unit)
    for value in graph.values():
        if value.loss_weight or value in graph.outputs:
            lifetimes.use_value(value, "data", schedule.end)
    return plan


def rewritten(again_step: Iterable[Unit]) -> set[Value]:
    """The values whose memory these units write; those that lie in another's memory are left out."""
    return {value.memory for unit in again_step for value in unit.outputs}


class _Lifetimes:
    """Collects the first and last step of every buffer."""

    def __init__(self, plan: MemoryPlan, itemsize: int, keep_all: bool) -> None:
        self.plan = plan
        self.schedule = plan.schedule
        self.itemsize = itemsize
        self.keep_all = keep_all
        self.rewritten = rewritten(self.schedule.again_step)

    def use_value(self, value: Value, kind: str, step: int) -> None:
        """A value's data, or its gradient, is written or read by this step."""
        owner = value.memory if kind == "data" else value.diff_memory
        if kind == "data" and owner.param is not None:
            return  # it lies among the parameters, and stays
        if kind == "data" and step >= len(self.schedule.units) and owner in self.rewritten:
            kind = AGAIN
        buffer = self._use((owner, kind), value.memory_elements * self.itemsize, step)
        if self.keep_all:
            buffer.first, buffer.last = -1, self.schedule.end

    def use_workspace(self, unit: Unit, direction: str, step: int) -> None:
        arrays = unit.backward_workspace if direction == "backward" else unit.forward_workspace
        self.use_scratch(unit, {workspace(direction, name): arrays[name] for name in arrays}, step)

    def use_scratch(self, unit: Unit, arrays: Mapping[str, Scratch], step: int, keep: bool = False) -> None:
        for name, scratch in arrays.items():
            itemsize = np.dtype(scratch.dtype).itemsize if scratch.dtype is not None else self.itemsize
            buffer = self._use((unit, name), count(scratch.shape) * itemsize, step)
            if keep:
                buffer.first, buffer.last = -1, self.schedule.end

    def _use(self, key: Key, nbytes: int, step: int) -> Buffer:
        buffer = self.plan.buffers.get(key)
        if buffer is None:
            buffer = self.plan.buffers[key] = Buffer(_aligned(nbytes), step, step)
            return buffer
        if nbytes > buffer.nbytes:
            buffer.nbytes = _aligned(nbytes)
        if step > buffer.last:
            buffer.last = step
        elif step < buffer.first:
            buffer.first = step
        return buffer

    def add_forward(self, unit: Unit) -> None:
        step = self.schedule.forward_step[unit]
        for value in (*unit.inputs, *unit.outputs):
            self.use_value(value, "data", step)
        if not unit.inputs:  # fed before the first step; a user's Input stays for the next pass
            last = self.schedule.end if unit.nodes[0].type == "Input" else step
            for value in unit.outputs:
                self.use_value(value, "data", -1)
                self.use_value(value, "data", last)
        self.use_scratch(unit, unit.saved, step, self.keep_all)
        self.use_workspace(unit, "forward", step)
        if unit in self.schedule.again_step:
            self.use_scratch(unit, states_before(unit), step)

    def add_again(self, unit: Unit) -> None:
        """A forward that runs again: what it writes lives from here on."""
        step = self.schedule.again_step[unit]
        for value in (*unit.inputs, *unit.outputs):
            self.use_value(value, "data", step)
        self.use_scratch(unit, {again(name): scratch for name, scratch in unit.saved.items()}, step)
        self.use_workspace(unit, AGAIN, step)
        self.use_scratch(unit, states_before(unit), step)
        self.use_scratch(unit, params_unused(unit), step)

    def add_backward(self, unit: Unit) -> None:
        step, node = self.schedule.backward_step[unit], unit.nodes[0]
        for value in read_by_backward(unit):
            self.use_value(value, "data", step)
        saved = unit.saved
        if unit in self.schedule.again_step:
            saved = {again(name): scratch for name, scratch in saved.items()}
        self.use_scratch(unit, saved, step, self.keep_all)
        self.use_workspace(unit, "backward", step)
        for value in gradients_into(unit, self.keep_all):
            self.use_value(value, "diff", step)
        for i, (value, wanted) in enumerate(zip(unit.inputs, unit.input_needs_grad, strict=True)):
            if wanted or (self.keep_all and i in node.layer.leftovers):
                self.use_value(value, "diff", step)


def read_by_backward(unit: Unit) -> list[Value]:
    """The values whose data a unit's backward reads."""
    bottoms = _chosen(unit.inputs, unit.backward_bottoms)
    return [*bottoms, *_chosen(unit.outputs, unit.backward_tops)]


def states_before(unit: Unit) -> dict[str, Scratch]:
    """What a unit's states were before forward, for computing it again from there."""
    return {before(name): scratch for node in unit.nodes for name, scratch in node.layer.states.items()}


def params_unused(unit: Unit) -> dict[str, Scratch]:
    """Where a unit that is computed again writes the parameters that forward changes, so that they are
    changed once: by their places among the unit's parameters."""
    shapes, place = {}, 0
    for node in unit.nodes:
        for index in node.layer.changed_params:
            shapes[unused(place + index)] = Scratch(node.params[index].shape)
        place += len(node.params)
    return shapes


def gradients_into(unit: Unit, user_gives: bool) -> Sequence[Value]:
    """The outputs of a unit whose gradient exists when its backward runs.

    A single output's always does (zeros where nothing gives one). Of several, those that a loss weight or a
    reader's backward gives and, with `user_gives`, those that nobody reads: a user may fill them in.
    """
    if len(unit.outputs) == 1:
        return unit.outputs
    return [v for v in unit.outputs if is_given_gradient(v) or (user_gives and not v.consumers)]


def is_given_gradient(value: Value) -> bool:
    """Whether the program itself gives this value a gradient: a loss weight, or a reader's backward."""
    return bool(value.loss_weight) or any(_wants(reader, value) for reader in value.consumers)


def _wants(reader: Node, value: Value) -> bool:
    return reader.needs_backward and reader.input_needs_grad[reader.inputs.index(value)]


def place(buffers: Iterable[Buffer], order: Callable[[Buffer], Any] = lambda b: (-b.nbytes, b.first)) -> int:
    """Gives every buffer an offset such that no two alive together overlap; returns the bytes needed in
    all."""
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=order):
        offset = 0
        for other in sorted((p for p in placed if p.overlaps(buffer)), key=lambda p: p.offset):
            if other.offset - offset >= buffer.nbytes:
                break
            offset = max(offset, other.offset + other.nbytes)
        buffer.offset = offset
        placed.append(buffer)
    return max((buffer.offset + buffer.nbytes for buffer in placed), default=0)


def _chosen(values: Sequence[Value], indices: Indices) -> Sequence[Value]:
    return values if indices is None else [values[i] for i in indices if i < len(values)]


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
