"""A program: one graph compiled for one set of shapes, a flat list of steps over one arena."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from netc.backends.backend import Backend
from netc.backends.form import PLAIN, Form, Mode
from netc.backends.journal import Journal
from netc.backends.selection import select_forms
from netc.backends.step import STEP_ERRORS, ArenaForm, Step, explain
from netc.graph import Graph, Node, Value
from netc.layer import Array, Buffers, Shape
from netc.passes.memory import AGAIN, MemoryPlan, plan_memory
from netc.passes.recompute import fit_memory
from netc.runtime.again import AgainForm
from netc.runtime.binding import Binding, fill_all
from netc.runtime.demand import Demand
from netc.runtime.places import ParamArrays, Places
from netc.schema.layer_keys import LayerKey

Watcher = Callable[[Step, Buffers], None]


class Arena:
    """Memory that programs which never run at once share: a train net and its test nets, or one net's other
    shapes."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.memory = backend.allocate(0)

    def reserve(self, nbytes: int) -> Array:
        """Memory of at least this size. A program bound to smaller memory keeps its own."""
        if nbytes > len(self.memory):
            self.memory = self.backend.allocate(nbytes)
        return self.memory


@dataclass(frozen=True)
class ShapeChange:
    """A node whose tops turn out, from values, to have other shapes than the program's."""

    node: Node
    shapes: tuple[Shape, ...]


class IterationUpdate(Protocol):
    """An update of a net's parameters that runs in the net's iterations; steps: by itself."""

    steps: Sequence[Step]

    def joined_to(self, program: Program) -> Sequence[Step]:
        """A program's backward steps with it."""


@dataclass(eq=False)
class Program:
    """Steps bound to their arrays. `forward` and `backward` run them all, or those of a range of nodes."""

    graph: Graph
    forms: Sequence[Form]
    places: Places
    demand: Demand
    backend: Backend
    binding: Binding
    watcher: Watcher | None = None  # called after every step

    def __post_init__(self) -> None:
        self._last = {value.name: value for value in self.graph.values()}
        self.forward_steps, self.backward_steps = self.binding.forward_steps, self.binding.backward_steps
        self.buffers = self.binding.buffers
        self.losses = [
            (value.producer, value.loss_weight, self.data(value))
            for value in self.graph.values()
            if value.loss_weight
        ]
        # Whether a journal takes them: one number each, of 4 bytes.
        self.fits_journal = all(array.size == 1 and array.dtype == np.float32 for _, _, array in self.losses)
        # What runs where nothing has to be looked at between steps: the same work, recorded where possible.
        record = self.backend.record
        self._unwatched: dict[str, Sequence[Step]] = {
            "forward": record(self.forward_steps),
            "backward": record(self.backward_steps),
            "both": record([*self.forward_steps, *self.backward_steps]),
        }
        # The update and the journal that "iteration" and "descent" were made with.
        self._trained_by: tuple[IterationUpdate, Journal | None] | None = None
        self._critics = [form for form in self.forms if type(form).complaint is not Form.complaint]
        self._asks_for_shapes = any(node.layer.shapes_by_value for node in self.graph.nodes)

    @property
    def plan(self) -> MemoryPlan:
        """Where everything lies in the program's memory."""
        return self.places.plan

    @property
    def memory(self) -> Array:
        """The arena that it works in."""
        return self.places.memory

    def last_value(self, blob: str) -> Value:
        """What a blob holds when a pass is over."""
        return self._last[blob]

    def data(self, value: Value) -> Array:
        """Where a value lies."""
        return self.places.data(value)

    def diff(self, value: Value) -> Array | None:
        """Where a value's gradient lies; None where the program computes none."""
        return self.places.diff(value)

    def buffers_of(self, step: Step) -> Buffers:
        """The arrays that a step works on."""
        return self.binding.buffers_of(step)

    def gradients_to_clear(self) -> list[Array]:
        """Where backward gives gradients anew: those of parameters to which it gives none."""
        if not self.demand.fresh:
            return []
        given = {
            param.owner
            for form in self.forms
            for param, fresh in zip(form.params, form.fresh, strict=True)
            if fresh
        }
        rest = [param for param in self.graph.params() if param.owner is param and param not in given]
        gradients = [self.places.params[param.layer, param.index].diff for param in rest]
        return [gradient for gradient in gradients if gradient is not None]

    def prepare(self) -> None:
        """Makes of the parameters what forms keep of them; called when they have changed, where the demand
        says that they are held."""
        for run in self.binding.preparations:
            run()

    def forward(self, nodes: Sequence[Node] | None = None, settled: Node | None = None) -> ShapeChange | None:
        """Runs the forward steps, of all nodes or of these.

        Stops before a node whose tops turn out to have other shapes, and says which. settled: a node that has
        been asked already, and whose shapes are this program's.
        """
        return self._run("forward", nodes, settled)

    def backward(self, nodes: Sequence[Node] | None = None) -> None:
        """Runs the backward steps, of all nodes or of these; parameter gradients are added to."""
        self._run("backward", nodes)

    @property
    def runs_in_one(self) -> bool:
        """Whether, without a watcher, nothing is looked at between the steps of a forward and a backward
        pass."""
        return not (self.demand.poison or self._asks_for_shapes)

    def forward_backward(self) -> None:
        """All forward and all backward steps, where possible as one piece of recorded work."""
        self._run("both", None)

    def train(self, clear: Sequence[Array], update: IterationUpdate, journal: Journal) -> None:
        """A whole iteration, where possible as one piece of recorded work: all forward steps, then as in
        `descend`, then the losses' way into a journal."""
        if self._trained_by != (update, journal):
            writing = Step(
                ArenaForm("journal"), "update", journal.writing([array for _, _, array in self.losses])
            )
            steps = [*self.forward_steps, *self._descent(clear, update), writing]
            self._unwatched["iteration"], self._trained_by = self.backend.record(steps), (update, journal)
        self._run("iteration", None)

    def descend(self, clear: Sequence[Array], update: IterationUpdate) -> None:
        """What follows a forward pass in an iteration, where possible as one piece of recorded work: zeros
        for the gradients `clear`, all backward steps, an update."""
        if self._trained_by != (update, None):
            steps = self._descent(clear, update)
            self._unwatched["descent"], self._trained_by = self.backend.record(steps), (update, None)
        self._run("descent", None)

    def _descent(self, clear: Sequence[Array], update: IterationUpdate) -> list[Step]:
        steps = update.joined_to(self)
        if not clear:
            return [*steps]
        zeros = partial(fill_all, [(gradient, 0.0) for gradient in clear])
        return [Step(ArenaForm("clear", runs_on_xp=True), "update", zeros), *steps]

    def loss(self, nodes: Sequence[Node] | None = None) -> float:
        """The weighted sum of what the losses among all nodes, or these, have come to.

        Raises NetcError where it is not a number and a step has found out why; without losses, or where users
        look at every blob, whenever a step has found something wrong.
        """
        ran = None if nodes is None else set(nodes)
        found = [
            weight * total_of(self.backend.read(array))
            for producer, weight, array in self.losses
            if ran is None or producer in ran
        ]
        loss = sum(found)
        if loss != loss or not found or self.demand.keep_all:
            self.complain(ran)
        return loss

    def loss_of(self, numbers: np.ndarray) -> float:
        """As `loss`, of an iteration that has left these numbers, of `losses` in order, in a journal."""
        weights = (weight for _, weight, _ in self.losses)
        loss = sum(weight * number for weight, number in zip(weights, numbers.tolist(), strict=True))
        if loss != loss:
            self.complain()
        return loss

    def complain(self, nodes: Collection[Node] | None = None) -> None:
        """Raises the NetcError of the first step, among all or those of some nodes, that has found something
        wrong and could not stop for it."""
        for form in self._critics:
            if (nodes is None or form.served in nodes) and (error := form.complaint()):
                raise error

    def _run(
        self, direction: str, nodes: Sequence[Node] | None, settled: Node | None = None
    ) -> ShapeChange | None:
        steps: Sequence[Step] = self.backward_steps if direction == "backward" else self.forward_steps
        asks = self._asks_for_shapes and direction == "forward"
        watched = self.watcher is not None or self.demand.poison or asks
        if nodes is not None:
            steps = _of_nodes(steps, nodes)
        elif not watched:
            steps = self._unwatched[direction]
        step = None
        try:
            # Infinities and NaNs are numbers here, as in Caffe.
            with np.errstate(all="ignore"), self.backend.active():
                for step in steps:
                    if asks and (change := self._change_of_shape(step.node, settled)):
                        return change
                    step.run()
                    if watched:
                        self._look_at(step)
        except STEP_ERRORS as error:
            explain(error, step)
            raise
        return None

    def _change_of_shape(self, node: Node, settled: Node | None) -> ShapeChange | None:
        if not node.layer.shapes_by_value or node is settled:
            return None
        shapes = tuple(node.layer.real_shapes(self.backend.xp, self.buffers[node]))
        return ShapeChange(node, shapes) if shapes != tuple(node.layer.top_shapes) else None

    def _look_at(self, step: Step) -> None:
        """What a check, or the user, wants done after every step."""
        if self.watcher is not None and step.direction != AGAIN:
            self.watcher(step, self.buffers_of(step))
        if self.demand.poison:
            self._poison(step)

    def take_over(self, other: Program, step: int) -> None:
        """Copies what is alive before this step of the forward pass from another program of the same net.

        The two may lie in the same memory.
        """
        here: dict[Any, Any] = {}
        for theirs, ours in zip(other.forms, self.forms, strict=True):
            here[theirs] = ours
            for their_node, our_node in zip(theirs.nodes, ours.nodes, strict=True):
                here.update(zip(their_node.outputs, our_node.outputs, strict=True))
        copies = []
        for (owner, kind), buffer in other.plan.buffers.items():
            place = self.plan.buffers.get((here[owner], kind))
            shape = _shape(owner, kind)
            same = place is not None and shape is not None and shape == _shape(here[owner], kind)
            if place is not None and same and buffer.first < step <= buffer.last:
                copies.append((place.offset, other.memory[buffer.offset :][: buffer.nbytes].copy()))
        for offset, values in copies:
            self.memory[offset : offset + len(values)] = values

    def _poison(self, step: Step) -> None:
        form = step.form.original if isinstance(step.form, AgainForm) else step.form
        now = self.plan.schedule.steps[step.direction].get(form)
        if now is None:
            return
        for buffer in self.plan.freed_after(now):
            self.memory[buffer.offset : buffer.offset + buffer.nbytes] = 0xFF  # NaN in every float type


def total_of(array: np.ndarray) -> float:
    """The sum of an array, which most often is one number."""
    return float(array.item() if array.size == 1 else array.sum())


def _shape(owner: Value | Form, kind: str) -> Shape | None:
    """The shape of what lies in a buffer; None for a workspace, in which nothing stays."""
    if isinstance(owner, Value):
        return owner.shape
    return owner.saved[kind].shape if kind in owner.saved else None


def _of_nodes(steps: Sequence[Step], nodes: Sequence[Node]) -> list[Step]:
    chosen = set(nodes)
    return [step for step in steps if step.form.served in chosen]


def compile_program(
    graph: Graph,
    demand: Demand,
    backend: Backend,
    arena: Arena,
    params: Mapping[tuple[LayerKey, int], ParamArrays],
    states: Mapping[str, Array],
    layout: str | None = None,
    loss_scale: Array | None = None,
) -> Program:
    """Plans the memory of a graph, binds its nodes to it, and makes the steps.

    layout: as in `plan_program`. loss_scale: one number that the gradients of losses are multiplied by.
    """
    forms, plan = plan_program(graph, demand, backend, layout)
    memory = backend.allocate(plan.arena_bytes) if demand.keep_all else arena.reserve(plan.arena_bytes)
    places = Places(plan, memory, backend, demand.dtype, params)
    with backend.preparing():
        binding = Binding(graph, forms, places, demand, states, loss_scale)
        binding.bind()
        for node in graph.nodes:
            node.layer.attach(binding.buffers[node])
        return Program(graph, forms, places, demand, backend, binding)


def plan_program(
    graph: Graph, demand: Demand, backend: Backend, layout: str | None = None
) -> tuple[list[Form], MemoryPlan]:
    """The forms that run a graph, and where their blobs lie; nothing is allocated for them.

    layout: what forms are asked to work in; None for the backend's first choice.
    """
    itemsize = np.dtype(demand.dtype).itemsize
    plain = "layout" in demand.without
    layout = PLAIN if plain else layout or backend.layouts(demand.keep_all)[0]
    mode = Mode(demand.backward, demand.fresh, demand.holds, layout, backend.math, backend.deterministic)
    fuse = not demand.keep_all and "fuse" not in demand.without
    forms = select_forms(graph, backend, mode, fuse=fuse)
    plan = plan_memory(
        graph,
        forms,
        backward=demand.backward,
        keep_all=demand.keep_all,
        itemsize=itemsize,
        share="memory" not in demand.without,
    )
    if backend.memory_limit is not None:
        repeats = not {"memory", "recompute"} & demand.without
        limit = backend.memory_limit
        plan = fit_memory(graph, forms, plan, limit, itemsize, repeats=repeats, keep_all=demand.keep_all)
    return forms, plan
