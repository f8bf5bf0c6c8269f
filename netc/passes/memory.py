"""Where activations lie: lifetimes over the whole forward and backward order become offsets in one arena.

Every buffer is alive from the step that first writes it to the step that last reads it. Buffers that are
never alive together may share bytes; the largest are placed first, each at the lowest offset where it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from netc.graph import Graph, Node, Value
from netc.layer import Shape
from netc.layer.base import Indices, count

ALIGNMENT = 64  # bytes: a cache line, and what vector loads on every backend want

Key = tuple[Any, str]  # (Value, "data" | "diff") or (Node, name of a saved array)


@dataclass(eq=False)
class Buffer:
    """A stretch of the arena: alive in steps `first` to `last`, both included."""

    nbytes: int
    first: int
    last: int
    offset: int = -1

    def overlaps(self, other: Buffer) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass
class Schedule:
    """The order of a program: forward of every node, then backward of those that need it, last to first."""

    nodes: list[Node]
    backward: bool

    def __post_init__(self) -> None:
        backward = [node for node in reversed(self.nodes) if node.needs_backward] if self.backward else []
        self.forward_step = {node: step for step, node in enumerate(self.nodes)}
        self.backward_step = {node: len(self.nodes) + step for step, node in enumerate(backward)}
        self.backward_nodes = backward
        self.end = len(self.nodes) + len(backward)


@dataclass
class MemoryPlan:
    """Offsets of every buffer in an arena of `arena_bytes`; without sharing they would take
    `unshared_bytes`."""

    schedule: Schedule
    buffers: dict[Key, Buffer] = field(default_factory=dict)
    arena_bytes: int = 0
    unshared_bytes: int = 0

    def freed_after(self, step: int) -> list[Buffer]:
        """The buffers whose last reader is this step."""
        return [buffer for buffer in self.buffers.values() if buffer.last == step]

    def __str__(self) -> str:
        saved = 100 * (1 - self.arena_bytes / self.unshared_bytes) if self.unshared_bytes else 0.0
        sizes = f"{self.arena_bytes:,} bytes of activations instead of {self.unshared_bytes:,}"
        return f"{sizes} ({saved:.0f} % saved)"


def plan_memory(graph: Graph, *, backward: bool, keep_all: bool, itemsize: int) -> MemoryPlan:
    """Plans the arena of one graph.

    backward: whether gradients are computed at all; keep_all: every blob stays readable after a pass, so
    nothing is shared (the outputs and losses always stay); itemsize: bytes of one element of the net's type.
    """
    schedule = Schedule(graph.nodes, backward)
    plan = MemoryPlan(schedule)
    lifetimes = _Lifetimes(plan, itemsize, keep_all)
    for node in graph.nodes:
        lifetimes.add_forward(node)
    for node in schedule.backward_nodes:
        lifetimes.add_backward(node)
    for value in graph.values():
        if value.loss_weight or value in graph.outputs:
            lifetimes.use(value.memory, "data", value.shape, schedule.end)
    plan.unshared_bytes = sum(buffer.nbytes for buffer in plan.buffers.values())
    plan.arena_bytes = place(plan.buffers.values())
    return plan


class _Lifetimes:
    """Collects the first and last step of every buffer."""

    def __init__(self, plan: MemoryPlan, itemsize: int, keep_all: bool) -> None:
        self.plan = plan
        self.schedule = plan.schedule
        self.itemsize = itemsize
        self.keep_all = keep_all

    def use(self, owner: Any, kind: str, shape: Shape, step: int, itemsize: int = 0) -> None:
        if kind == "data" and isinstance(owner, Value) and owner.param is not None:
            return  # it lies among the parameters, and stays
        nbytes = _aligned(count(shape) * (itemsize or self.itemsize))
        buffer = self.plan.buffers.setdefault((owner, kind), Buffer(nbytes, step, step))
        buffer.nbytes = max(buffer.nbytes, nbytes)
        buffer.first = min(buffer.first, step)
        buffer.last = max(buffer.last, step)
        if self.keep_all:
            buffer.first, buffer.last = -1, self.schedule.end

    def add_forward(self, node: Node) -> None:
        step = self.schedule.forward_step[node]
        for value in (*node.inputs, *node.outputs):
            self.use(value.memory, "data", value.shape, step)
        if not node.inputs:  # fed before the first step; a user's Input stays for the next pass
            last = self.schedule.end if node.type == "Input" else step
            for value in node.outputs:
                self.use(value.memory, "data", value.shape, -1)
                self.use(value.memory, "data", value.shape, last)
        for name, scratch in node.layer.saved.items():
            itemsize = np.dtype(scratch.dtype).itemsize if scratch.dtype is not None else self.itemsize
            self.use(node, name, scratch.shape, step, itemsize)

    def add_backward(self, node: Node) -> None:
        step, layer = self.schedule.backward_step[node], node.layer
        for value in (
            *_chosen(node.inputs, layer.backward_bottoms),
            *_chosen(node.outputs, layer.backward_tops),
        ):
            self.use(value.memory, "data", value.shape, step)
        for name, scratch in layer.saved.items():
            itemsize = np.dtype(scratch.dtype).itemsize if scratch.dtype is not None else self.itemsize
            self.use(node, name, scratch.shape, step, itemsize)
        for value in gradients_into(node, self.keep_all):
            self.use(value.diff_memory, "diff", value.shape, step)
        for i, (value, wanted) in enumerate(zip(node.inputs, node.input_needs_grad, strict=True)):
            if wanted or (self.keep_all and i in layer.leftovers):
                self.use(value.diff_memory, "diff", value.shape, step)


def gradients_into(node: Node, user_gives: bool) -> list[Value]:
    """The outputs of a node whose gradient exists when its backward runs.

    A single output's always does (zeros where nothing gives one). Of several, those that a loss weight or a
    reader's backward gives and, with `user_gives`, those that nobody reads: a user may fill them in.
    """
    if len(node.outputs) == 1:
        return node.outputs
    return [v for v in node.outputs if is_given_gradient(v) or (user_gives and not v.consumers)]


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


def _chosen(values: list[Value], indices: Indices) -> list[Value]:
    return values if indices is None else [values[i] for i in indices if i < len(values)]


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
