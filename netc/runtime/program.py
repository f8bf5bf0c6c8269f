"""A program: one graph compiled for one set of shapes, a flat list of steps over one arena."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from netc.backends.backend import Backend
from netc.backends.form import PLAIN, Form, Mode, Run
from netc.backends.layout import view
from netc.backends.selection import select_forms
from netc.backends.step import STEP_ERRORS, ArenaForm, Step, explain
from netc.graph import Graph, Node, Value
from netc.layer import Array, Buffers, Scratch, Shape
from netc.passes.memory import (
    AGAIN,
    MemoryPlan,
    again,
    before,
    gradients_into,
    is_given_gradient,
    plan_memory,
    unused,
    workspace,
)
from netc.passes.recompute import fit_memory
from netc.runtime.again import AgainForm, Remembering, copy_all
from netc.runtime.states import state_names
from netc.schema.layer_keys import LayerKey


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


@dataclass
class ParamArrays:
    """A parameter's values and, where gradients are computed, their gradients, in the shape that one layer
    gives it."""

    data: Array
    diff: Array | None


@dataclass
class Demand:
    """What a program is compiled for."""

    backward: bool = True
    holds: bool = False  # parameters stay as they are from one `prepare` to the next
    fresh: bool = False  # a backward pass gives the parameters' gradients anew, rather than adding to them
    keep_all: bool = True  # every blob stays readable after a pass; else only outputs and losses
    poison: bool = False  # fill what is freed with NaN after every step: a check of the plan
    dtype: Any = np.float32
    without: frozenset[str] = frozenset()  # of `CHOICES`


CHOICES = (
    "fuse",
    "layout",
    "memory",
    "recompute",
)  # what a compilation does beyond what it must, and can leave


@dataclass(frozen=True)
class ShapeChange:
    """A node whose tops turn out, from values, to have other shapes than the program's."""

    node: Node
    shapes: tuple[Shape, ...]


Seed = tuple[Array, float]  # a gradient that no layer writes, and the value it is filled with


class Filling(Form):
    """Writes the gradients that no layer writes, before the backward that reads them."""

    variant = "fill"
    runs_on_xp = True


@dataclass(eq=False)
class Program:
    """Steps bound to their arrays. `forward` and `backward` run them all, or those of a range of nodes."""

    graph: Graph
    forms: Sequence[Form]
    plan: MemoryPlan
    memory: Array
    demand: Demand
    backend: Backend
    params: Mapping[tuple[LayerKey, int], ParamArrays]
    buffers: dict[Node, Buffers] = field(default_factory=dict)
    forward_steps: list[Step] = field(default_factory=list)
    backward_steps: list[Step] = field(default_factory=list)
    watcher: Callable[[Step, Buffers], None] | None = None  # called after every step

    def __post_init__(self) -> None:
        self._last = {value.name: value for value in self.graph.values()}
        self._states = state_names(self.graph)
        # Where backward reads what has been computed again: the arrays that it is bound to.
        self._later: dict[Node, Buffers] = {}
        # What runs where nothing has to be looked at between steps: the same work, recorded where possible.
        self._unwatched: dict[str, Sequence[Step]] = {}
        self._trained_by: Sequence[Step] | None = None  # the update that "iteration" was made with
        self._asks_for_shapes = any(node.layer.shapes_by_value for node in self.graph.nodes)
        self.losses: list[tuple[Node, float, Array]] = []
        self._preparations: list[Run] = []
        self.loss_scale: Array | None = None

    def last_value(self, blob: str) -> Value:
        """What a blob holds when a pass is over."""
        return self._last[blob]

    def data(self, value: Value) -> Array:
        """Where a value lies."""
        if (param := value.memory.param) is not None:
            return self.params[param.layer, param.index].data.reshape(value.shape)
        return self._value(value.memory, "data", value)

    def _later_data(self, value: Value) -> Array:
        """Where a value lies during backward."""
        if (value.memory, AGAIN) in self.plan.buffers:
            return self._value(value.memory, AGAIN, value)
        return self.data(value)

    def buffers_of(self, step: Step) -> Buffers:
        """The arrays that a step works on."""
        later = self._later.get(step.node) if step.direction == "backward" else None
        return later or self.buffers[step.node]

    def diff(self, value: Value) -> Array | None:
        """Where a value's gradient lies; None where the program computes none."""
        if (value.diff_memory, "diff") not in self.plan.buffers:
            return None
        return self._value(value.diff_memory, "diff", value)

    def _value(self, owner: Value, kind: str, value: Value) -> Array:
        offset = self.plan.buffers[owner, kind].offset
        return view(self.backend, self.memory, offset, value, self.demand.dtype)

    def _view(self, owner: Any, kind: str, shape: tuple[int, ...], dtype: Any = None) -> Array:
        buffer = self.plan.buffers[owner, kind]
        return self.backend.array(self.memory, buffer.offset, shape, dtype or self.demand.dtype)

    def bind(self, states: Mapping[str, Array]) -> None:
        """Gives every form its arrays and makes the steps."""
        for form in self.forms:
            buffers = self._buffers(form, states)
            self.buffers.update(dict.fromkeys(form.nodes, buffers))
            self._remember(form)
            if run := self._bound(form, buffers, "forward"):
                self.forward_steps.append(Step(form, "forward", run))
            if run := form.prepare(buffers):
                self._preparations.append(run)
        for form in reversed(self.forms) if self.demand.backward else ():
            if form.needs_backward:
                for repeated in self.plan.schedule.again.get(form, ()):
                    assert isinstance(repeated, Form)
                    self._bind_again(repeated, form)
                self._bind_backward(form)
        for node in self.graph.nodes:
            node.layer.attach(self.buffers[node])
        self.losses = [
            (value.producer, value.loss_weight, self.data(value))
            for value in self.graph.values()
            if value.loss_weight
        ]
        self._unwatched = {
            "forward": self.backend.record(self.forward_steps),
            "backward": self.backend.record(self.backward_steps),
            "both": self.backend.record([*self.forward_steps, *self.backward_steps]),
        }

    def _bound(self, form: Form, buffers: Buffers, direction: str) -> Run | None:
        """What a form makes of its arrays in one direction."""
        backward = direction == "backward"
        needs = form.backward_workspace if backward else form.forward_workspace
        buffers.workspace = self._scratch(form, needs, partial(workspace, direction))
        return form.backward(buffers) if backward else form.forward(buffers)

    def _scratch(
        self, form: Form, arrays: Mapping[str, Scratch], called: Callable[[str], str] = str
    ) -> dict[str, Array]:
        """A form's arrays; called: the names that they have in the plan."""
        return {
            name: self._view(form, called(name), scratch.shape, scratch.dtype)
            for name, scratch in arrays.items()
        }

    def _buffers(self, form: Form, states: Mapping[str, Array]) -> Buffers:
        return Buffers(
            bottoms=[self.data(value) for value in form.inputs],
            tops=[self.data(value) for value in form.outputs],
            params=[self.params[param.layer, param.index].data for param in form.params],
            saved=self._scratch(form, form.saved),
            states={
                name: states[key] for node in form.nodes for name, key in self._states.get(node, {}).items()
            },
        )

    def _remember(self, form: Form) -> None:
        """Before a forward that runs again: keeps the states that it begins from."""
        if form in self.plan.schedule.again_step and (states := self.buffers[form.node].states):
            pairs = [
                (self._view(form, before(name), state.shape, state.dtype), state)
                for name, state in states.items()
            ]
            self.forward_steps.append(Step(Remembering(form.nodes), "forward", partial(copy_all, pairs)))

    def _bind_again(self, form: Form, needed_by: Form) -> None:
        """Runs a form's forward once more, on what backward reads; states and parameters stay as they are."""
        first = self.buffers[form.node]
        places = enumerate(first.params)
        buffers = Buffers(
            bottoms=[self._later_data(value) for value in form.inputs],
            tops=[self._later_data(value) for value in form.outputs],
            params=[self._view_if(form, unused(i), param) for i, param in places],
            saved=self._scratch(form, form.saved, again),
            states={name: self._view_if(form, before(name), state) for name, state in first.states.items()},
        )
        if run := self._bound(form, buffers, AGAIN):
            self.backward_steps.append(Step(AgainForm(form, needed_by), AGAIN, run))

    def _view_if(self, form: Form, name: str, array: Array) -> Array:
        """The place that an array of a form has for computing again, where it has one; else the array."""
        if (form, name) not in self.plan.buffers:
            return array
        return self._view(form, name, array.shape, array.dtype)

    def _backward_buffers(self, form: Form) -> Buffers:
        """The arrays of a form's backward: forward's own, where nothing is computed again."""
        forward = self.buffers[form.node]
        repeated = form in self.plan.schedule.again_step
        values = (*form.inputs, *form.outputs)
        if not repeated and all((value.memory, AGAIN) not in self.plan.buffers for value in values):
            return forward
        later = replace(
            forward,
            bottoms=[self._later_data(value) for value in form.inputs],
            tops=[self._later_data(value) for value in form.outputs],
            saved=self._scratch(form, form.saved, again) if repeated else forward.saved,
        )
        self._later.update(dict.fromkeys(form.nodes, later))
        return later

    def _bind_backward(self, form: Form) -> None:
        buffers = self._backward_buffers(form)
        given = gradients_into(form, self.demand.keep_all)
        buffers.top_grads = [self.diff(value) if value in given else None for value in form.outputs]
        buffers.bottom_grads = [
            self.diff(value) if wanted else None
            for value, wanted in zip(form.inputs, form.input_needs_grad, strict=True)
        ]
        buffers.param_grads = [
            self.params[param.layer, param.index].diff if wanted else None
            for param, wanted in zip(form.params, form.param_needs_grad, strict=True)
        ]
        if self.demand.keep_all:
            buffers.leftovers = {
                i: self.diff(form.inputs[i])
                for i in form.node.layer.leftovers
                if not form.input_needs_grad[i]
            }
        run = None
        self._zero_fresh(form, buffers)
        if any(grad is not None for grad in (*buffers.bottom_grads, *buffers.param_grads)):
            run = self._bound(form, buffers, "backward")
        seeds = self._seeds(given)
        if self.demand.keep_all:
            fill_all(seeds)
        elif run and seeds:
            fill = partial(fill_all, seeds)
            if self.loss_scale is not None:
                fill = partial(fill_scaled, self.backend.xp, self.loss_scale, seeds)
            self.backward_steps.append(Step(Filling(form.nodes), "backward", fill))
        if run:
            self.backward_steps.append(Step(form, "backward", run))

    def _zero_fresh(self, form: Form, buffers: Buffers) -> None:
        """Where a form only adds to gradients of parameters, they are zeros when it is the first to."""
        if form.writes_fresh:
            return
        zeros: list[Seed] = [
            (grad, 0.0)
            for grad, fresh in zip(buffers.param_grads, form.fresh, strict=True)
            if fresh and grad is not None
        ]
        if zeros:
            self.backward_steps.append(Step(Filling(form.nodes), "backward", partial(fill_all, zeros)))

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
        gradients = [self.params[param.layer, param.index].diff for param in rest]
        return [gradient for gradient in gradients if gradient is not None]

    def _seeds(self, given: Sequence[Value]) -> list[Seed]:
        """The gradients that no layer writes, with what they hold: a loss weight, or zeros.

        Where every blob stays, they are written once, as in Caffe, so that a user's own values hold.
        Elsewhere their memory has other uses, and every pass writes them anew.
        """
        return [
            (grad, value.loss_weight)
            for value in given
            if (value.loss_weight or not is_given_gradient(value)) and (grad := self.diff(value)) is not None
        ]

    def prepare(self) -> None:
        """Makes of the parameters what forms keep of them; called when they have changed, where the demand
        says that they are held."""
        for run in self._preparations:
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

    def train(self, clear: Sequence[Array], update: Sequence[Step]) -> None:
        """A whole iteration, where possible as one piece of recorded work: all forward steps, zeros for the
        gradients `clear`, all backward steps, an update's steps."""
        if self._trained_by is not update:
            zeros = partial(fill_all, [(gradient, 0.0) for gradient in clear])
            clearing = Step(ArenaForm("clear", runs_on_xp=True), "update", zeros)
            steps = [*self.forward_steps, clearing, *self.backward_steps, *update]
            self._unwatched["iteration"], self._trained_by = self.backend.record(steps), update
        self._run("iteration", None)

    def loss(self, nodes: Sequence[Node] | None = None) -> float:
        """The weighted sum of what the losses among all nodes, or these, have come to.

        Raises NetcError where it is not a number and a step has found out why.
        """
        ran = None if nodes is None else set(nodes)
        loss = sum(
            weight * total_of(self.backend.read(array))
            for producer, weight, array in self.losses
            if ran is None or producer in ran
        )
        if loss != loss:
            self.complain()
        return loss

    def complain(self) -> None:
        """Raises the NetcError of the first step that has found something wrong and could not stop for it."""
        for form in self.forms:
            if error := form.complaint():
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


def fill_scaled(xp: ModuleType, scale: Array, seeds: list[Seed]) -> None:
    """Writes the gradients that no layer writes, times the loss scale."""
    for grad, weight in seeds:
        xp.multiply(scale.reshape((1,) * grad.ndim), grad.dtype.type(weight), out=grad)


def total_of(array: np.ndarray) -> float:
    """The sum of an array, which most often is one number."""
    return float(array.item() if array.size == 1 else array.sum())


def fill_all(seeds: list[Seed]) -> None:
    """Writes the gradients that no layer writes."""
    for grad, weight in seeds:
        grad.fill(weight)


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
    program = Program(graph, forms, plan, memory, demand, backend, params)
    program.loss_scale = loss_scale
    with backend.preparing():
        program.bind(states)
    return program


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
