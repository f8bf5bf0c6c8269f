"""Measures how long nets' kernels take to compile for a GPU, without one; writes a table and a result file.

    python tools/bench_compile.py [-nets lenet,alexnet] [-maths fp32,tf32] [-architecture 90]

For each net of the zoo its training program is made, update included, with an empty cache of kernels and
then with a full one, each time by a process of its own. The program, and so the kernels, are those of a GPU
of this compute capability that has just been met: all kernels that would be timed are compiled. What a GPU
itself does at first use (opening its context, loading and timing kernels) is not in these figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.compiling_device import CompilingDevice
from bench.machine import describe_machine, processor_name, slug, versions
from bench.nets import NETS, ROOT, BenchNet, net_named, training_net
from bench.options import words
from bench.results import Results, markdown
from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.nvrtc import Nvrtc
from netc.backends.update_spec import UpdateSpec
from netc.errors import NetcError
from netc.graph import Build, State, build_graph
from netc.passes import run_passes
from netc.proto import netc_pb2 as pb
from netc.runtime.demand import Demand
from netc.runtime.param_store import ParamStore
from netc.runtime.program import Arena, compile_program
from netc.runtime.states import States

KEYS: Final = ("net", "math", "architecture")
COLUMNS: Final = ("steps", "kernels", "processor_seconds", "cold_seconds", "warm_seconds", "load")
SLOWEST: Final = 12  # kernels of a net that the result file names


def main() -> int:
    options = read_options()
    if options.inside:
        print(json.dumps(make_program(net_named(options.nets[0]), options.maths[0], options.architecture)))
        return 0
    results = Results(options.results / f"compile-{slug(processor_name())}.json", KEYS)
    results.content["machine"] = describe_machine()
    results.content["versions"] = {**versions(("numpy",)), "nvrtc": Nvrtc().version}
    for net in options.nets:
        for math in options.maths:
            measurement = measure(net, math, options.architecture)
            print(table([measurement]).splitlines()[-1], flush=True)
            results.add(measurement)
            results.path.with_suffix(".md").write_text(page(results), encoding="utf-8")
    return 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-nets", type=words, default=[net.name for net in NETS], help="which nets")
    parser.add_argument("-maths", type=words, default=["fp32"], help="which math modes")
    parser.add_argument("-architecture", type=int, default=90, help="the compute capability, as 90")
    parser.add_argument("-results", type=Path, default=ROOT / "benchmarks" / "results", help="where to write")
    parser.add_argument("-inside", action="store_true", help="make one program in this process; print JSON")
    return parser.parse_args()


def measure(net: str, math: str, architecture: int) -> dict[str, Any]:
    """One net with an empty cache of kernels, then with what that left there."""
    with tempfile.TemporaryDirectory(prefix="netc-bench-") as folder:
        command = [sys.executable, __file__, "-inside", "-nets", net, "-maths", math]
        command += ["-architecture", str(architecture)]
        made, load = [], os.getloadavg()[0]
        for _ in ("cold", "warm"):
            environment = {**os.environ, "NETC_CACHE_DIR": folder}
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            made.append(json.loads(done.stdout))
    cold, warm = made
    built = cold["built"]
    return {
        "net": net,
        "math": math,
        "architecture": architecture,
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "steps": cold["steps"],
        "kernels": len(built),
        "processor_seconds": round(sum(built.values()), 1),
        "cold_seconds": round(cold["seconds"], 1),
        "warm_seconds": round(warm["seconds"], 2),
        "slowest": dict(sorted(built.items(), key=lambda item: -item[1])[:SLOWEST]),
        "load": round(load, 1),
    }


def make_program(net: BenchNet, math: str, architecture: int) -> dict[str, Any]:
    """Compiles a net's training program and the solver's update: the seconds on the wall, and of processor
    time for each kernel."""
    backend = CudaBackend(device := CompilingDevice(architecture), math)
    definition = training_net(net, net.gpu_batch or net.cpu_batch)
    graph = run_passes(build_graph(definition, Build(State(pb.TRAIN))))
    store, states = ParamStore(graph, {}, backend, np.float32, seed=1), States()
    states.fit(graph, backend, np.float32)
    begin = time.perf_counter()
    demand = Demand(keep_all=False, fresh=True)
    program = compile_program(graph, demand, backend, Arena(backend), store.arrays, states)
    run_update(backend, store.flat.data, store.flat.grad)
    return {
        "seconds": time.perf_counter() - begin,
        "steps": len(program.forward_steps) + len(program.backward_steps),
        "built": device.built,
    }


def run_update(backend: CudaBackend, data: Any, grad: Any) -> None:
    """Loads what stochastic gradient descent with momentum needs."""
    history = backend.array(backend.allocate(data.nbytes), 0, data.shape, np.float32)
    runs = ((0, data.size, 1.0, 5e-4),)
    spec = UpdateSpec("SGD", 0.9, 0.999, 1e-8, l1=False, clip=-1, iter_size=1, runs=runs)
    update = backend.make_update(spec, data, grad, [history])
    assert update is not None, "the device has no update"
    update.prepare(0, 0.01)
    update.run()


def table(measurements: Sequence[Mapping[str, Any]]) -> str:
    """The measurements as a Markdown table."""
    columns = (*KEYS, *COLUMNS)
    rows = [list(columns), ["---"] * len(columns)]
    return markdown(rows + [[str(m[column]) for column in columns] for m in measurements])


def page(results: Results) -> str:
    """The result file for readers."""
    machine, found = results.content["machine"], results.content["versions"]
    parts = [
        f"# Compiling kernels: {machine['processor']}, {machine['cores']} cores",
        ", ".join(f"{name} {version}" for name, version in found.items()),
        "What a training program's kernels take to compile: processor seconds of all of them, and seconds on"
        " the wall until the program is made, with an empty cache (cold) and a full one (warm). Load: how"
        " many processes wanted a core as the measurement began. How it is measured: benchmarks/readme.md.",
        table(results.measurements),
        "## The slowest kernels",
        "Processor seconds.",
    ]
    slowest: dict[str, float] = {}
    for m in results.measurements:
        slowest |= {name: max(seconds, slowest.get(name, 0)) for name, seconds in m["slowest"].items()}
    rows = [["kernel", "seconds"], ["---", "---"]]
    rows += [[name, f"{s:.2f}"] for name, s in sorted(slowest.items(), key=lambda item: -item[1])]
    return "\n\n".join([*parts, markdown(rows)]) + "\n"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NetcError as error:
        sys.exit(str(error))
