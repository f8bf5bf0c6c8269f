"""Which layout a net computes fastest in: measured once on arrays of its own, and remembered on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Final

import numpy as np

from netc.backends.backend import Backend
from netc.backends.cache_folder import cache_folder
from netc.cores import thread_count
from netc.errors import NetcError
from netc.graph import Graph
from netc.layer import Layer
from netc.layer.base import count
from netc.passes.memory import ALIGNMENT
from netc.proto import netc_pb2 as pb
from netc.runtime.demand import Demand
from netc.runtime.places import ParamArrays
from netc.runtime.program import Arena, Program, compile_program, plan_program
from netc.runtime.states import States
from netc.version import __version__

log = logging.getLogger(__name__)

LEAST_FLOPS: Final = 50_000_000  # of a pass forward: below, a choice gains less than it takes
WARM_UP: Final = 1  # passes that are not counted
PASSES: Final = 3  # of which the least time counts; the first may be one that is recorded


def choose_layout(make_graph: Callable[[], Graph], demand: Demand, backend: Backend) -> str:
    """The layout for a net's program.

    Where a backend has several, each is tried on a program of its own, with parameters of zeros; the answer
    is remembered for this net, batch, machine and number of threads. Small nets, nets with layers that touch
    more than their blobs, and backends that are `deterministic` or do not compare take the first.
    """
    compares = backend.compares_layouts and not backend.deterministic
    layouts = _fitting(backend.layouts(demand.keep_all), make_graph, demand, backend, compares)
    if len(layouts) == 1 or not compares:
        return layouts[0]
    graph = make_graph()
    if not all(map(_is_harmless, (node.layer for node in graph.nodes))):
        return layouts[0]
    path = cache_folder("layouts") / f"{_key(graph, demand, backend)}.json"
    remembered = _read(path)
    if remembered is not None and remembered in layouts:
        return remembered
    first = _compile(graph, demand, backend, layouts[0])
    if sum(form.flops() for form in first.forms) < LEAST_FLOPS:
        return layouts[0]
    try:
        times = {layouts[0]: _time(first, demand)}
        del first
        for layout in layouts[1:]:
            times[layout] = _time(_compile(make_graph(), demand, backend, layout), demand)
    except NetcError as error:  # what is wrong with the net shows again, and better, when it runs
        log.debug("layouts cannot be compared: %s", error)
        return layouts[0]
    best = min(times, key=lambda layout: times[layout])
    shown = ", ".join(f"{layout} {1e3 * seconds:.1f} ms" for layout, seconds in times.items())
    log.info("Layout of net %r: %s (a pass takes %s)", graph.name, best, shown)
    _write(path, best)
    return best


def _fitting(
    layouts: Sequence[str], make_graph: Callable[[], Graph], demand: Demand, backend: Backend, compares: bool
) -> Sequence[str]:
    """The layouts in which a net keeps to the memory limit, or the first of them unless it `compares`; all,
    where there is no limit or none does."""
    if backend.memory_limit is None or len(layouts) == 1:
        return layouts
    fitting = []
    for layout in layouts:
        with suppress(NetcError):
            plan_program(make_graph(), demand, backend, layout)
            fitting.append(layout)
            if not compares:
                break
    return fitting or layouts


def _is_harmless(layer: Layer) -> bool:
    """Whether a layer does nothing but compute its tops and gradients, and can do so from zeros."""
    effects = type(layer).attach is not Layer.attach or layer.shapes_by_value
    return not effects and (bool(layer.top_shapes) or layer.type == "Silence" or not layer.bottom_shapes)


def _key(graph: Graph, demand: Demand, backend: Backend) -> str:
    """What the answer hangs on."""
    facts = [
        __version__,
        backend.name,
        backend.math,
        platform.processor() or platform.machine(),
        _processor(),
        str(thread_count()),
        *backend.layout_facts(),
        str((demand.backward, demand.fresh, np.dtype(demand.dtype).str)),
        *([] if backend.memory_limit is None else [str(backend.memory_limit)]),
        *(str(value.shape) for value in graph.values()),
    ]
    content = graph.definition.SerializeToString(deterministic=True)
    return hashlib.sha256(content + "\n".join(facts).encode()).hexdigest()[:32]


def _processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("model name")), "")


def _compile(graph: Graph, demand: Demand, backend: Backend, layout: str) -> Program:
    """The program of a graph over parameters and states of its own, all zeros.

    The parameters lie in one piece of memory, which goes back to the system as a whole: of that of many
    arrays, much would stay with the process.
    """
    itemsize = np.dtype(demand.dtype).itemsize
    sizes = [-(-count(param.shape) * itemsize // ALIGNMENT) * ALIGNMENT for param in graph.params()]
    memory = backend.allocate(2 * sum(sizes), "parameters to compare layouts with")
    ends = list(accumulate(sizes, initial=0))
    params = {}
    for param, offset in zip(graph.params(), ends, strict=False):
        places = (offset, offset + ends[-1])
        data, diff = (backend.array(memory, place, param.shape, demand.dtype) for place in places)
        params[param.layer, param.index] = ParamArrays(data, diff)
    states = States()
    states.fit(graph, backend, demand.dtype)
    return compile_program(graph, demand, backend, Arena(backend), params, states, layout)


def _time(program: Program, demand: Demand) -> float:
    """The seconds of a pass forward, and backward where that is asked for."""
    both = demand.backward and program.graph.phase == pb.TRAIN
    run = program.forward_backward if both else program.forward
    seconds = []
    for _ in range(WARM_UP + PASSES):
        program.backend.synchronise()
        begin = time.perf_counter()
        run()
        program.backend.synchronise()
        seconds.append(time.perf_counter() - begin)
    return min(seconds[WARM_UP:])


def _read(path: Path) -> str | None:
    """The remembered answer; None where there is none that can be read."""
    try:
        found = json.loads(path.read_text())
        return str(found["layout"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, layout: str) -> None:
    """Remembers an answer; whoever reads meanwhile sees the old file or the new one."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(json.dumps({"layout": layout}))
        unfinished.replace(path)
    except OSError as error:
        log.debug("the layout cannot be remembered: %s", error)
