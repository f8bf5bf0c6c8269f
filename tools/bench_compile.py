"""Measures what comes before a net's first iteration on a GPU, without one; writes a table and a result file.

    python tools/bench_compile.py [-nets lenet,alexnet] [-maths fp32,tf32] [-architecture 90]

Each net of the zoo is given to a solver that makes one iteration, with an empty cache of kernels and then
with what that left there, each time by a process of its own. The kernels are those of a GPU of this compute
capability that has just been met: all that would be timed are compiled, in every layout that would be
compared. What a GPU itself does (opening its context, loading and timing kernels, computing) is not in these
figures, nor is the import of CuPy.
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

from bench.compiling_device import CompilingDevice
from bench.machine import describe_machine, processor_name, slug, versions
from bench.netc_runner import training_solver
from bench.nets import NETS, ROOT, BenchNet, net_named, training_net
from bench.options import words
from bench.results import Results, markdown
from bench.stopwatch import Parts, watching
from netc.backends import selection
from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.compilation import loader
from netc.backends.cuda.compilation.nvrtc import Nvrtc
from netc.backends.cuda.tuning import timings
from netc.errors import NetcError
from netc.runtime import net as runtime_net
from netc.runtime import program, programs
from netc.solver import Solver

KEYS: Final = ("net", "math", "architecture")
COLUMNS: Final = (
    *("steps", "kernels", "processor_seconds", "cold_seconds"),
    *("warm_seconds", "warm_processor_seconds", "load"),
)
SLOWEST: Final = 12  # kernels of a net that the result file names
RATE: Final = 1e-3  # of learning

# Where the time goes until an iteration has been asked for. "kernels": waiting for their compilation, and
# opening them; "choices": looking up how long each took; what is left of the whole is called the rest.
PARTS: Final[Parts] = {
    "graph": [(runtime_net, "_make_graph")],
    "parameters": [(runtime_net, "ParamStore")],
    "rehearsal": [(selection, "_rehearse")],
    "forms": [(program, "select_forms")],
    "binding": [(programs, "compile_program")],
    "layouts": [(programs, "choose_layout")],
    "choices": [(timings.Timings, "find"), (timings.Timings, "add")],
    "kernels": [(loader.Loader, "_finish_all")],
}


def main() -> int:
    options = read_options()
    if options.inside:
        imports = time.process_time()
        made = first_iteration(net_named(options.nets[0]), options.maths[0], options.architecture)
        whole = time.process_time()
        rest = whole - imports - sum(made["parts"].values())
        made["parts"] = {"import": imports, **made["parts"], "rest": rest}
        print(json.dumps({**made, "seconds": time.time() - options.begun, "processor_seconds": whole}))
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
    parser.add_argument("-inside", action="store_true", help="one net in this process; print JSON")
    parser.add_argument("-begun", type=float, default=0.0, help="when this process was started")
    return parser.parse_args()


def measure(net: str, math: str, architecture: int) -> dict[str, Any]:
    """One net with an empty cache of kernels, then with what that left there."""
    with tempfile.TemporaryDirectory(prefix="netc-bench-") as folder:
        command = [sys.executable, __file__, "-inside", "-nets", net, "-maths", math]
        command += ["-architecture", str(architecture)]
        made, load = [], os.getloadavg()[0]
        for _ in ("cold", "warm"):
            environment = {**os.environ, "NETC_CACHE_DIR": folder}
            begun = [*command, "-begun", str(time.time())]
            done = subprocess.run(begun, env=environment, check=True, stdout=subprocess.PIPE, text=True)
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
        "warm_processor_seconds": round(warm["processor_seconds"], 2),
        "warm_parts": {part: round(seconds, 3) for part, seconds in warm["parts"].items()},
        "slowest": dict(sorted(built.items(), key=lambda item: -item[1])[:SLOWEST]),
        "load": round(load, 1),
    }


def first_iteration(net: BenchNet, math: str, architecture: int) -> dict[str, Any]:
    """Makes a solver and its first iteration: the processor seconds of each part, and of each kernel's
    compilation."""
    device = CompilingDevice(architecture)
    definition = training_solver(training_net(net, net.gpu_batch or net.cpu_batch), RATE)
    with watching(PARTS) as parts:
        solver = Solver(definition, backend=CudaBackend(device, math))
        solver.step(1)
    steps = solver.net.program
    return {
        "parts": parts,
        "steps": len(steps.forward_steps) + len(steps.backward_steps),
        "built": device.built,
    }


def table(measurements: Sequence[Mapping[str, Any]]) -> str:
    """The measurements as a Markdown table."""
    columns = (*KEYS, *COLUMNS)
    rows = [list(columns), ["---"] * len(columns)]
    return markdown(rows + [[str(m[column]) for column in columns] for m in measurements])


def parts_table(measurements: Sequence[Mapping[str, Any]]) -> str:
    """Where the time of each measurement goes, as a Markdown table."""
    names = ["import", *PARTS, "rest"]
    columns = ["net", "math", *names]
    rows = [[m["net"], m["math"], *(f"{m['warm_parts'][name]:.2f}" for name in names)] for m in measurements]
    return markdown([columns, ["---"] * len(columns), *rows])


def page(results: Results) -> str:
    """The result file for readers."""
    machine, found = results.content["machine"], results.content["versions"]
    parts = [
        f"# Compiling kernels: {machine['processor']}, {machine['cores']} cores",
        ", ".join(f"{name} {version}" for name, version in found.items()),
        "What comes before a net's first iteration on a GPU: processor seconds to compile its kernels, and"
        " seconds on the wall from the process's start until the iteration has been asked for, with an empty"
        " cache (cold) and a full one (warm); of the latter also the processor seconds, which other processes"
        " do not change. Load: how many processes wanted a core as the measurement began. How it is measured:"
        " benchmarks/readme.md.",
        table(results.measurements),
        "## Where the time goes with a full cache",
        "Processor seconds. Parameters: filling them. Rehearsal, forms, binding: how the net is turned into a"
        " program. Choices: looking up how long kernels took. Kernels: waiting for them, and opening them.",
        parts_table(results.measurements),
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
