"""Which activations are dropped after forward and computed again before backward, where memory is limited.

A forward that runs twice lets what it makes give its memory to others meanwhile (Chen et al., "Training
deep nets with sublinear memory cost", 2016). What costs little for the bytes that it frees goes first (Jain
et al., "Checkmate", 2020): a pooling or a normalisation before a convolution. Every choice is judged by the
plan that it leads to.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from netc.errors import NetcError
from netc.graph import Graph, Value
from netc.layer import Layer
from netc.layer.base import count
from netc.passes.memory import Again, MemoryPlan, Unit, plan_lives, read_by_backward
from netc.passes.work import FLOPS_PER_MULTIPLY_ADD, backward_multiply_adds, multiply_adds

FLOPS_PER_BYTE: Final = 16  # that take as long as moving one byte, about: what makes a convolution dear
DRAWS: Final = "draw"  # how the states begin that only count draws, which can be repeated
TARGETS: Final = (1.0, 0.85, 0.7, 0.5, 0.3)  # shares of the limit that the search goes for, one after another
TRIALS: Final = 600  # plans made from one beginning of the search
LEAST_GAIN: Final = 1e-3  # of what lies above the target: less is not worth a step
SEGMENTS: Final = 2  # ways to cut a net into segments from which a search begins


@dataclass(eq=False)
class Group:
    """Units that can only run again together, in their order: they write the same memory, in place, or read
    what another of them overwrites.

    made: the values whose memory they write; read: those from outside that they start from; cost: what
    running them takes, as bytes moved.
    """

    units: Sequence[Unit]
    made: set[Value]
    read: set[Value]
    cost: float


def find_groups(graph: Graph, units: Sequence[Unit], itemsize: int) -> list[Group]:
    """The groups that may run again, in the order of the net.

    Left out are those that a user sees (outputs and losses), that are fed from outside, or whose forward does
    more than compute its tops. A net whose shapes hang on values has none.
    """
    if any(node.layer.shapes_by_value for node in graph.nodes):
        return []
    fixed = _fixed(graph, units)
    groups = []
    for members in _joined(units):
        made = {value.memory for unit in members for value in unit.outputs}
        if made and made.isdisjoint(fixed) and all(map(_runs_again, members)):
            read = {value.memory for unit in members for value in unit.inputs} - made
            cost = sum(_cost(unit, itemsize) for unit in members)
            groups.append(Group(members, made, read, cost))
    return groups


def _joined(units: Sequence[Unit]) -> list[list[Unit]]:
    """The units that write, as they hang together through the memory that they write."""
    writing = [unit for unit in units if not all(node.layer.shares_data for node in unit.nodes)]
    group: dict[Unit, list[Unit]] = {unit: [unit] for unit in writing}

    def join(one: Unit, other: Unit) -> None:
        if group[one] is not group[other]:
            merged = group[one] + group[other]
            group.update((unit, merged) for unit in merged)

    writer: dict[Value, Unit] = {}
    seen: list[tuple[Unit, Value, Unit | None]] = []
    for unit in writing:
        seen += [(unit, value.memory, writer.get(value.memory)) for value in unit.inputs]
        for memory in {value.memory for value in unit.outputs}:
            join(writer.get(memory, unit), unit)
            writer[memory] = unit
    for unit, memory, was in seen:
        if was is not None and writer[memory] is not was:
            join(unit, was)
    order = {unit: place for place, unit in enumerate(writing)}
    distinct = {id(members): sorted(members, key=order.__getitem__) for members in group.values()}
    return sorted(distinct.values(), key=lambda members: order[members[0]])


def _fixed(graph: Graph, units: Sequence[Unit]) -> set[Value]:
    """The memory that must stay as forward left it: what users see, and what layers have shown to others."""
    shown = [value for value in graph.values() if value.loss_weight or value in graph.outputs]
    for unit in units:
        if any(type(node.layer).attach is not Layer.attach for node in unit.nodes):
            shown += [*unit.inputs, *unit.outputs]
    return {value.memory for value in shown}


def _runs_again(unit: Unit) -> bool:
    """Whether a second run of a unit's forward makes what the first one made, and nothing else happens."""
    layers = [node.layer for node in unit.nodes]
    return bool(unit.inputs) and all(
        layer.differentiable and all(state.startswith(DRAWS) for state in layer.states) for layer in layers
    )


def _cost(unit: Unit, itemsize: int) -> float:
    values = sum(count(value.shape) for value in (*unit.inputs, *unit.outputs))
    adds = sum(map(multiply_adds, unit.nodes))
    return values * itemsize + adds * FLOPS_PER_MULTIPLY_ADD / FLOPS_PER_BYTE


def run_again(units: Sequence[Unit], groups: Collection[Group]) -> Again:
    """Before whose backward these groups run again: the first that reads what they make.

    What they start from, where that is dropped too, runs again with them.
    """
    maker = {value: group for group in groups for value in group.made}
    member = {unit: group for group in groups for unit in group.units}
    order = {unit: place for place, unit in enumerate(units)}
    done: set[Group] = set()
    again: dict[Unit, list[Unit]] = {}
    for unit in reversed(units):
        if not unit.needs_backward:
            continue
        wanted = [maker[value.memory] for value in read_by_backward(unit) if value.memory in maker]
        wanted += [member[unit]] if unit in member and unit.saved else []
        repeated: list[Unit] = []
        while wanted:
            group = wanted.pop()
            if group not in done:
                done.add(group)
                repeated += group.units
                wanted += [maker[value] for value in group.read if value in maker]
        if repeated:
            again[unit] = sorted(repeated, key=order.__getitem__)
    return again


def fit_memory(
    graph: Graph,
    units: Sequence[Unit],
    plan: MemoryPlan,
    limit: int,
    itemsize: int,
    *,
    repeats: bool = True,
    keep_all: bool = False,
) -> MemoryPlan:
    """A plan of at most `limit` bytes: the given one where it fits, else one that computes some values again,
    in as little additional work as is found.

    repeats: whether anything may be computed again; keep_all: as in `plan_memory`. Raises NetcError where
    the limit cannot be met, with the smallest arena that can be reached.
    """
    if plan.arena_bytes <= limit:
        return plan
    if keep_all or not (plan.schedule.backward and repeats):
        raise _too_small(limit, plan.arena_bytes, plan.arena_bytes, keep_all)
    groups = find_groups(graph, units, itemsize)
    search = _Search(graph, units, groups, itemsize)
    question = (limit, plan.live_bytes().tobytes(), tuple(group.cost for group in groups))
    if question not in _answers:
        found = search.fit(limit)
        if found is None:
            raise _too_small(limit, search.smallest.arena_bytes, plan.arena_bytes)
        _answers[question] = [groups.index(group) for group in found]
    fitting = search.placed([groups[place] for place in _answers[question]])
    fitting.bytes_without = plan.arena_bytes
    fitting.extra_work = _extra_work(units, fitting.schedule.again_step)
    return fitting


# What a search found, by all that it hangs on: a net is planned several times before it runs.
_answers: dict[Hashable, list[int]] = {}


def _too_small(limit: int, smallest: int, without: int, keep_all: bool = False) -> NetcError:
    reached = f"{smallest:,} bytes at least"
    if smallest < without:
        reached += f", {without:,} where nothing is computed again"
    remedy = f"a memory limit of {smallest:,} bytes, or a smaller batch_size"
    if keep_all:
        remedy = 'keep="outputs", which does not leave every blob readable'
    elif share := 100 * limit // smallest:
        remedy += f", about {share} % of this one"
    return NetcError(
        "the activations of this net do not fit into the memory limit",
        expected=f"at most {limit:,} bytes",
        found=reached,
        remedy=remedy,
    )


def _extra_work(units: Iterable[Unit], repeated: Iterable[Unit]) -> float:
    """The multiplications that run again, as a share of those of an iteration."""
    nodes = [node for unit in units for node in unit.nodes]
    whole = sum(multiply_adds(node) + backward_multiply_adds(node) for node in nodes)
    more = sum(multiply_adds(node) for unit in repeated for node in unit.nodes)
    return more / whole if whole else 0.0


class _Search:
    """Looks for the cheapest groups whose running again brings the arena under a limit.

    smallest: the smallest plan that was met on the way.
    """

    def __init__(self, graph: Graph, units: Sequence[Unit], groups: Sequence[Group], itemsize: int) -> None:
        self.graph, self.units, self.groups, self.itemsize = graph, units, groups, itemsize
        self.smallest = self.placed([])
        self._trials_left = 0

    def fit(self, limit: int) -> Sequence[Group] | None:
        """The groups to drop; None where none were found that bring the arena under the limit."""
        for start in ([], *self._segments()):
            self._trials_left = TRIALS
            dropped = self._shrink(start, limit)
            if dropped is not None:
                return self._prune(dropped, limit)
        return None

    def _lives(self, dropped: Collection[Group]) -> MemoryPlan:
        again = run_again(self.units, dropped)
        return plan_lives(
            self.graph, self.units, backward=True, keep_all=False, itemsize=self.itemsize, again=again
        )

    def placed(self, dropped: Collection[Group]) -> MemoryPlan:
        """The plan with these groups dropped."""
        plan = self._lives(dropped)
        plan.place()
        return plan

    def _shrink(self, dropped: Sequence[Group], limit: int) -> Sequence[Group] | None:
        """Drops more groups until the arena fits; None where no other one makes it smaller.

        What lies above the limit is to go. Where no group helps, a lower one often does.
        """
        for share in TARGETS:
            target = int(limit * share)
            promise = dict.fromkeys(self.groups, np.inf)
            while True:
                plan = self._lives(dropped)
                if self._fits(plan, limit):
                    return dropped
                chosen = self._next(dropped, _excess(plan, target), target, promise)
                if chosen is None:
                    break
                dropped = _toggled(dropped, chosen)
        return None

    def _fits(self, plan: MemoryPlan, limit: int) -> bool:
        """Whether the arena of a plan fits, which it may only where what is alive does."""
        least = plan.live_bytes().max()
        if least <= limit or least < self.smallest.arena_bytes:
            plan.place()
            self.smallest = min(self.smallest, plan, key=lambda plan: plan.arena_bytes)
            return plan.arena_bytes <= limit
        return False

    def _next(
        self, dropped: Sequence[Group], excess: float, target: int, promise: dict[Group, float]
    ) -> Group | None:
        """The group to drop that takes the most off the excess for what it costs; where none does, one to
        keep after all.

        promise: what each has been found to take off, for its cost, which most often only gets less: so the
        best promises are tried anew until one holds (Minoux, "Accelerated greedy algorithms", 1978).
        """
        for fresh in (False, True):
            if fresh:
                promise.update(dict.fromkeys(self.groups, np.inf))
            tried: set[Group] = set()
            while rest := [group for group in self.groups if promise[group] > 0 and group not in dropped]:
                group = max(rest, key=promise.__getitem__)
                if group in tried:
                    return group
                tried.add(group)
                promise[group] = self._gain(dropped, group, excess, target) / group.cost
        gains = {group: self._gain(dropped, group, excess, target) for group in dropped}
        best = max(gains, key=gains.__getitem__, default=None)
        return best if best is not None and gains[best] > 0 else None

    def _gain(self, dropped: Sequence[Group], group: Group, excess: float, target: int) -> float:
        """What dropping this group too, or keeping it after all, takes off the excess; 0 where that is next
        to nothing, or enough has been tried."""
        if self._trials_left == 0:
            return 0.0
        self._trials_left -= 1
        gain = excess - _excess(self._lives(_toggled(dropped, group)), target)
        return gain if gain > LEAST_GAIN * excess else 0.0

    def _prune(self, dropped: Sequence[Group], limit: int) -> Sequence[Group]:
        """Leaves out what need not run again after all, the dearest first."""
        for group in sorted(dropped, key=lambda group: -group.cost):
            fewer = _toggled(dropped, group)
            if self._fits(self._lives(fewer), limit):
                dropped = fewer
        return dropped

    def _segments(self) -> list[list[Group]]:
        """Ways to keep only every second, third, ... of the places that the whole net runs through."""
        maker = {value: group for group in self.groups for value in group.made}
        last_reader = {
            maker[value]: place
            for place, group in enumerate(self.groups)
            for value in group.read
            if value in maker
        }
        cuts: list[Group] = []
        open_until = 0
        for place, group in enumerate(self.groups):
            if open_until <= place:
                cuts.append(group)
            open_until = max(open_until, last_reader.get(group, place))
        kept = [set(cuts[::every]) for every in range(1, len(cuts))]
        ways = [[group for group in self.groups if group not in cut] for cut in kept]
        return sorted(ways, key=lambda way: self._lives(way).live_bytes().max())[:SEGMENTS]


def _toggled(dropped: Sequence[Group], group: Group) -> Sequence[Group]:
    """With this group, or without it where it is among them."""
    rest = [other for other in dropped if other is not group]
    return rest if len(rest) < len(dropped) else [*rest, group]


def _excess(plan: MemoryPlan, target: int) -> float:
    """What lies above the target, summed over the steps."""
    return float(np.maximum(plan.live_bytes() - target, 0).sum())
