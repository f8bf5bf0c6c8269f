"""Measures where the processor time of a training iteration goes, as `netc train` runs it on one thread: the
program's steps, those among them that run a layer's own meaning, the update, and all that lies between.

    python tools/bench_steps.py [-nets lenet,cifar] [-iterations 100]

The nets read made-up images from a database, through their own transformations. See benchmarks/readme.md.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.machine import describe_machine, processor_name, slug, versions
from bench.nets import NETS, ROOT, BenchNet, image_shape, net_named
from bench.options import words
from bench.results import Results, markdown
from netc.backends.cpu import CpuBackend
from netc.backends.step import Step
from netc.data.writer import LmdbWriter
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.schema.net import read_net
from netc.schema.solver import read_solver
from netc.solver import Solver

BORDER: Final = 16  # pixels that images are larger than what is cropped of them
WARM_UP: Final = 5  # iterations
MOST_SECONDS: Final = 60.0


class ClockedBackend(CpuBackend):
    """Notes the processor time, in nanoseconds, that the training thread spends in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.spent: Counter[str] = Counter()
        self.runs = 0

    def record(self, steps: Sequence[Step]) -> Sequence[Step]:
        return [replace(step, run=self.clocked(self.name_of(step), step.run)) for step in steps]

    @staticmethod
    def name_of(step: Step) -> str:
        if step.direction == "update":
            return "update"
        return step.form.node.type if step.form.variant == "reference" else "steps"

    def clocked(self, name: str, run: Callable[[], None]) -> Callable[[], None]:
        def timed() -> None:
            begun = time.thread_time_ns()
            run()
            self.spent[name] += time.thread_time_ns() - begun
            self.runs += 1

        return timed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-nets", type=words, default=[net.name for net in NETS], help="which nets")
    parser.add_argument("-iterations", type=int, default=100, help="how many to measure, within a minute")
    parser.add_argument("-results", type=Path, default=ROOT / "benchmarks" / "results", help="where to write")
    options = parser.parse_args()
    logging.getLogger("netc").setLevel(logging.WARNING)
    results = Results(options.results / f"steps-{slug(processor_name())}.json", ("net", "batch"))
    results.content["machine"], results.content["versions"] = describe_machine(), versions()
    for net in (net_named(name) for name in options.nets):
        measured = measure(net, options.iterations)
        results.add(measured)
        print(table([measured]), flush=True)
    results.path.with_suffix(".md").write_text(page(results), encoding="utf-8")
    return 0


def measure(net: BenchNet, iterations: int) -> dict[str, Any]:
    """The medians over iterations, in milliseconds, and the shares of their sums."""
    backend = ClockedBackend()
    rows: list[Counter[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        solver = Solver(training(net, folder), backend=backend)
        try:
            solver.step(WARM_UP)
            end = time.monotonic() + MOST_SECONDS
            clock_ns = cost_of_clock(backend)
            while len(rows) < iterations and time.monotonic() < end:
                backend.spent.clear()
                backend.runs, begun = 0, time.thread_time_ns()
                solver.step()
                whole = time.thread_time_ns() - begun - backend.runs * clock_ns
                between = whole - sum(backend.spent.values())
                rows.append(Counter({**backend.spent, "between": between, "whole": whole}))
        finally:
            solver.close()
    names = sorted({name for row in rows for name in row} - {"whole"})
    medians = {name: statistics.median(row[name] for row in rows) for name in (*names, "whole")}
    return {
        "net": net.name,
        "batch": net.cpu_batch,
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "iterations": len(rows),
        "whole_ms": round(medians["whole"] / 1e6, 3),
        "ms": {name: round(medians[name] / 1e6, 4) for name in names},
        "shares": {name: round(medians[name] / medians["whole"], 4) for name in names},
    }


def cost_of_clock(backend: ClockedBackend, runs: int = 2000) -> float:
    """What clocking a step adds to an iteration, outside of what the clock shows, in nanoseconds."""
    empty = backend.clocked("nothing", lambda: None)
    begun = time.thread_time_ns()
    for _ in range(runs):
        empty()
    whole = time.thread_time_ns() - begun
    return (whole - backend.spent.pop("nothing")) / runs


def training(net: BenchNet, folder: str) -> pb.SolverParameter:
    """The zoo's solver of a net, silent, on a database of made-up images."""
    definition: pb.SolverParameter = read_solver(str(net.file("solver.prototxt"))).message
    parsed = read_net(str(net.file("train_val.prototxt"))).message
    for layer in parsed.layer:
        if layer.type == "Data":
            crops = layer.transform_param.crop_size > 0
            layer.transform_param.ClearField("mean_file")
            layer.data_param.source, layer.data_param.batch_size = folder, net.cpu_batch
    write_images(net, folder, BORDER if crops else 0)
    definition.ClearField("net")
    definition.net_param.CopyFrom(parsed)
    for field in ("test_iter", "test_interval", "display", "snapshot"):
        definition.ClearField(field)
    definition.snapshot_after_train, definition.random_seed, definition.iter_size = False, 1, 1
    definition.base_lr = 1e-6  # images that show nothing teach nothing
    return definition


def write_images(net: BenchNet, folder: str, border: int) -> None:
    """A database of twice a batch."""
    channels, height, width = image_shape(net)
    shape = channels, height + border, width + border
    random, database = np.random.default_rng(7), LmdbWriter(folder)
    for number in range(2 * net.cpu_batch):
        pixels = random.integers(0, 256, shape, dtype=np.uint8).tobytes()
        label = int(random.integers(net.classes))
        sizes = dict(zip(("channels", "height", "width"), shape, strict=True))
        datum = pb.Datum(**sizes, data=pixels, label=label)
        database.put(f"{number:08d}".encode(), datum.SerializeToString())
    database.close()


def table(measurements: Sequence[Mapping[str, Any]]) -> str:
    """The shares of an iteration; in a last column the reference steps, each by its layer's type."""
    known = ("steps", "update", "between")
    rows = [["net", "batch", "whole ms", *known, "reference steps"]]
    rows.append(["---"] * len(rows[0]))
    for m in measurements:
        rest = [f"{name} {share:.2%}" for name, share in m["shares"].items() if name not in known]
        shares = [f"{m['shares'].get(name, 0):.2%}" for name in known]
        rows.append([m["net"], str(m["batch"]), f"{m['whole_ms']:.2f}", *shares, ", ".join(rest) or "-"])
    return markdown(rows)


def page(results: Results) -> str:
    """The result file for readers."""
    machine, found = results.content["machine"], results.content["versions"]
    return (
        "\n\n".join(
            [
                f"# Where an iteration goes: {machine['processor']}, one thread",
                ", ".join(f"{name} {version}" for name, version in found.items()),
                "Processor time of the training thread: medians. Steps: oneDNN's primitives, our loops;"
                " reference steps: the layers' own meaning; between: Python, and the next batch's copy.",
                table(results.measurements),
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        sys.exit(main())
    except NetcError as error:
        sys.exit(str(error))
