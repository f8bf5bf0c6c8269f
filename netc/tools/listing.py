"""A program as a list: what runs for every layer, by which form and kernels, over how many bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from netc.backends.backend import Backend
from netc.backends.form import PLAIN
from netc.backends.step import Step
from netc.errors import NetcError
from netc.layer import Buffers
from netc.runtime.demand import Demand
from netc.runtime.param_store import ParamStore
from netc.runtime.program import Arena, Program, compile_program
from netc.runtime.states import States
from netc.tools.cost import graph_costs
from netc.tools.sketch import Sketch


@dataclass(frozen=True)
class ListedStep:
    """One step: the layers it runs, its form, the work it asks the device for, and what it costs.

    direction: "forward", "backward" or, of a forward that runs once more for a backward, "again". bytes: of
    the blobs, parameters and gradients that it reads and writes, each once; multiply_adds: of a forward step,
    0 where nobody counts them.
    """

    direction: str
    layers: tuple[str, ...]
    types: tuple[str, ...]
    variant: str
    kernels: tuple[str, ...]
    layouts: tuple[str, ...]
    bytes: int
    multiply_adds: int


@dataclass(frozen=True)
class Listing:
    """All steps of one iteration, and the memory that they share.

    extra_work: the multiplications of the steps that run again, as a share of the iteration's others.
    """

    net: str
    backend: str
    steps: tuple[ListedStep, ...]
    arena_bytes: int
    unshared_bytes: int
    parameter_bytes: int
    bytes_without_recompute: int
    extra_work: float


def list_program(
    sketched: Sketch,
    backend: Backend,
    *,
    backward: bool,
    without: frozenset[str] = frozenset(),
    layout: str | None = None,
) -> Listing:
    """Compiles a sketched net for a backend and lists the program; it is not run.

    without: which of `netc.runtime.demand.CHOICES` to leave; layout: what forms are asked to work in, plain
    or one of the backend's; None for its first. Raises NetcError.
    """
    known = dict.fromkeys((PLAIN, *backend.layouts(keep_all=False)))
    if layout is not None and layout not in known:
        raise NetcError(
            f"{backend.name} does not work in this layout where the math is {backend.math}",
            expected=", ".join(known),
            found=layout,
        )
    graph, demand = sketched.graph, Demand(backward=backward, keep_all=False, without=without)
    store, states = ParamStore(graph, {}, backend, np.float32, seed=1), States()
    states.fit(graph, backend, np.float32)
    costs = graph_costs(graph)
    program = compile_program(graph, demand, backend, Arena(backend), store.arrays, states, layout)
    steps = [
        _listed(step, program, backend, sum(costs[n].multiply_adds for n in step.form.nodes if n in costs))
        for step in (*program.forward_steps, *program.backward_steps)
    ]
    return Listing(
        graph.name,
        backend.name,
        tuple(steps),
        program.plan.arena_bytes,
        program.plan.unshared_bytes,
        int(store.flat.data.nbytes),
        program.plan.bytes_without or program.plan.arena_bytes,
        program.plan.extra_work,
    )


def _listed(step: Step, program: Program, backend: Backend, multiply_adds: int) -> ListedStep:
    form = step.form
    values = (*form.inputs, *form.outputs)
    return ListedStep(
        step.direction,
        tuple(node.name for node in form.nodes),
        tuple(node.type for node in form.nodes),
        form.variant,
        tuple(backend.trace(step)) if form.variant != "reference" else (),
        tuple(dict.fromkeys(value.layout for value in values)),
        _bytes(program.buffers_of(step), step.direction),
        0 if step.direction == "backward" else multiply_adds,
    )


def _bytes(b: Buffers, direction: str) -> int:
    arrays: Iterable[Any] = (*b.bottoms, *b.tops, *b.params)
    if direction == "backward":
        arrays = (*arrays, *b.bottom_grads, *b.top_grads, *b.param_grads)
    places = {id(array): array.nbytes for array in arrays if array is not None}
    return sum(places.values())
