"""Gives every form of a program its arrays; what the forms make of them are the program's steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import ModuleType

from netc.backends.form import Form, Run
from netc.backends.step import Step
from netc.graph import Graph, Node, Value
from netc.layer import Array, Buffers
from netc.passes.memory import AGAIN, again, before, gradients_into, is_given_gradient, unused, workspace
from netc.runtime.again import AgainForm, Remembering, copy_all
from netc.runtime.demand import Demand
from netc.runtime.places import Places
from netc.runtime.states import state_names

Seed = tuple[Array, float]  # a gradient that no layer writes, and the value it is filled with


class Filling(Form):
    """Writes the gradients that no layer writes, before the backward that reads them."""

    variant = "fill"
    runs_on_xp = True


@dataclass(eq=False)
class Binding:
    """The arrays of every node's form, and the steps in the order in which they run.

    loss_scale: one number that the gradients of losses are multiplied by.
    """

    graph: Graph
    forms: Sequence[Form]
    places: Places
    demand: Demand
    states: Mapping[str, Array]
    loss_scale: Array | None = None
    buffers: dict[Node, Buffers] = field(default_factory=dict)
    forward_steps: list[Step] = field(default_factory=list)
    backward_steps: list[Step] = field(default_factory=list)
    preparations: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._states = state_names(self.graph)
        self._again = self.places.plan.schedule.again
        self._repeated = self.places.plan.schedule.again_step
        # Where backward reads what has been computed again: the arrays that it is bound to.
        self._later: dict[Node, Buffers] = {}

    def bind(self) -> None:
        """Gives every form its arrays and makes the steps."""
        for form in self.forms:
            buffers = self._buffers(form)
            self.buffers.update(dict.fromkeys(form.nodes, buffers))
            self._remember(form)
            if run := self._bound(form, buffers, "forward"):
                self.forward_steps.append(Step(form, "forward", run))
            if run := form.prepare(buffers):
                self.preparations.append(run)
        for form in reversed(self.forms) if self.demand.backward else ():
            if form.needs_backward:
                for repeated in self._again.get(form, ()):
                    assert isinstance(repeated, Form)
                    self._bind_again(repeated, form)
                self._bind_backward(form)

    def buffers_of(self, step: Step) -> Buffers:
        """The arrays that a step works on."""
        later = self._later.get(step.node) if step.direction == "backward" else None
        return later or self.buffers[step.node]

    def _bound(self, form: Form, buffers: Buffers, direction: str) -> Run | None:
        """What a form makes of its arrays in one direction."""
        backward = direction == "backward"
        needs = form.backward_workspace if backward else form.forward_workspace
        buffers.workspace = self.places.scratch(form, needs, partial(workspace, direction))
        return form.backward(buffers) if backward else form.forward(buffers)

    def _buffers(self, form: Form) -> Buffers:
        places = self.places
        return Buffers(
            bottoms=[places.data(value) for value in form.inputs],
            tops=[places.data(value) for value in form.outputs],
            params=[places.params[param.layer, param.index].data for param in form.params],
            saved=places.scratch(form, form.saved),
            states={
                name: self.states[key]
                for node in form.nodes
                for name, key in self._states.get(node, {}).items()
            },
        )

    def _remember(self, form: Form) -> None:
        """Before a forward that runs again: keeps the states that it begins from."""
        if form in self._repeated and (states := self.buffers[form.node].states):
            pairs = [
                (self.places.array(form, before(name), state.shape, state.dtype), state)
                for name, state in states.items()
            ]
            self.forward_steps.append(Step(Remembering(form.nodes), "forward", partial(copy_all, pairs)))

    def _bind_again(self, form: Form, needed_by: Form) -> None:
        """Runs a form's forward once more, on what backward reads; states and parameters stay as they are."""
        first = self.buffers[form.node]
        places, params = self.places, enumerate(first.params)
        buffers = Buffers(
            bottoms=[places.later_data(value) for value in form.inputs],
            tops=[places.later_data(value) for value in form.outputs],
            params=[places.array_or(form, unused(i), param) for i, param in params],
            saved=places.scratch(form, form.saved, again),
            states={name: places.array_or(form, before(name), state) for name, state in first.states.items()},
        )
        if run := self._bound(form, buffers, AGAIN):
            self.backward_steps.append(Step(AgainForm(form, needed_by), AGAIN, run))

    def _backward_buffers(self, form: Form) -> Buffers:
        """The arrays of a form's backward: forward's own, where nothing is computed again."""
        places, forward = self.places, self.buffers[form.node]
        repeated = form in self._repeated
        values = (*form.inputs, *form.outputs)
        if not repeated and not any(map(places.comes_again, values)):
            return forward
        later = replace(
            forward,
            bottoms=[places.later_data(value) for value in form.inputs],
            tops=[places.later_data(value) for value in form.outputs],
            saved=places.scratch(form, form.saved, again) if repeated else forward.saved,
        )
        self._later.update(dict.fromkeys(form.nodes, later))
        return later

    def _bind_backward(self, form: Form) -> None:
        places, buffers = self.places, self._backward_buffers(form)
        given = gradients_into(form, self.demand.keep_all)
        buffers.top_grads = [places.diff(value) if value in given else None for value in form.outputs]
        buffers.bottom_grads = [
            places.diff(value) if wanted else None
            for value, wanted in zip(form.inputs, form.input_needs_grad, strict=True)
        ]
        buffers.param_grads = [
            places.params[param.layer, param.index].diff if wanted else None
            for param, wanted in zip(form.params, form.param_needs_grad, strict=True)
        ]
        if self.demand.keep_all:
            buffers.leftovers = {
                i: places.diff(form.inputs[i])
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
                fill = partial(fill_scaled, places.backend.xp, self.loss_scale, seeds)
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

    def _seeds(self, given: Sequence[Value]) -> list[Seed]:
        """The gradients that no layer writes, with what they hold: a loss weight, or zeros.

        Where every blob stays, they are written once, as in Caffe, so that a user's own values hold.
        Elsewhere their memory has other uses, and every pass writes them anew.
        """
        return [
            (grad, value.loss_weight)
            for value in given
            if (value.loss_weight or not is_given_gradient(value))
            and (grad := self.places.diff(value)) is not None
        ]


def fill_scaled(xp: ModuleType, scale: Array, seeds: list[Seed]) -> None:
    """Writes the gradients that no layer writes, times the loss scale."""
    for grad, weight in seeds:
        xp.multiply(scale.reshape((1,) * grad.ndim), grad.dtype.type(weight), out=grad)


def fill_all(seeds: list[Seed]) -> None:
    """Writes the gradients that no layer writes."""
    for grad, weight in seeds:
        grad.fill(weight)
