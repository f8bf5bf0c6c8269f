"""Measures netc on the CPU beside PyTorch on the same nets, and writes a table and a result file.

    python tools/bench_cpu.py [-nets lenet,cifar] [-tasks train,infer,single] [-threads 1,2]

Every measurement is of one net, task and number of threads; all contenders run in turn, each in a process of
its own. What the result file has already is not measured again unless -again is given, so that a long run
can be taken in parts. See benchmarks/readme.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench.agreement import check
from bench.contest import Contest
from bench.job import Job
from bench.machine import describe_machine, processor_name, slug, versions
from bench.nets import BenchNet, net_named
from bench.options import add_options, numbers, words
from bench.prepare import prepare
from bench.results import Results, advantage, layer_table, table
from netc.cores import cores_allowed
from netc.errors import NetcError

KEYS: Final = ("net", "task", "batch", "threads")
CONTENDERS: Final = ("netc", "eager", "channels_last", "compile")
TASKS: Final = ("train", "infer", "single")  # single: inference of one image


def main() -> int:
    options = read_options()
    results = Results(options.results / f"cpu-{slug(processor_name())}.json", KEYS)
    results.content["machine"] = describe_machine()
    results.content["versions"] = versions()
    for net in (net_named(name) for name in options.nets):
        for task in options.tasks:
            for threads in options.threads:
                measure(options, results, net, task, threads)
    if results.measurements:
        print(table([m for m in results.measurements if m["net"] in options.nets], KEYS))
    return 0


def page(results: Results) -> str:
    """The result file for readers: a table of all measurements, and netc's layers of every training step."""
    machine, found = results.content["machine"], results.content["versions"]
    parts = [
        f"# {machine['processor']}, {machine['cores']} cores",
        ", ".join(f"{name} {version}" for name, version in found.items()),
        "Milliseconds of a step, median (least to most): processor time on one thread, else wall time."
        " Memory: netc's peak as a share of the peer's that takes least. What was compared, and how:"
        " benchmarks/readme.md.",
        table(results.measurements, (*KEYS, "clock", "cores_busy_elsewhere")),
    ]
    for m in results.measurements:
        layers = layer_table(m)
        if layers:
            gemm = max(m["gemm_gflops"].values(), default=0)
            title = f"## {m['net']}, {m['task']}, {m['threads']} threads: netc's layers"
            parts += [title, f"A matrix product of 2048 x 2048 reached {gemm:.1f} GFLOP/s.", layers]
    return "\n\n".join(parts) + "\n"


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-tasks", type=words, default=list(TASKS), help="which of train, infer, single")
    parser.add_argument(
        "-threads",
        type=numbers,
        default=sorted({1, cores_allowed()}),
        help="with how many threads, by default 1 and all cores",
    )
    parser.add_argument("-contenders", type=words, default=list(CONTENDERS), help="which contenders")
    parser.add_argument("-check", action="store_true", help="only see whether all compute the same")
    add_options(parser, seconds=60, round_seconds=0.3)
    return parser.parse_args()


def measure(options: argparse.Namespace, results: Results, net: BenchNet, task: str, threads: int) -> None:
    """Takes one measurement, unless it is there, and adds it to the results."""
    batch = 1 if task == "single" else net.cpu_batch
    key = {"net": net.name, "task": task, "batch": batch, "threads": threads}
    if results.has(**key) and not (options.again or options.check):
        return
    print(f"{net.name}, {task}, {batch} images, {threads} threads", flush=True)
    jobs = [job_of(contender, net, task, batch, threads, options.folder) for contender in options.contenders]
    differences = check(jobs)
    if options.check:
        print(f"  {differences}", flush=True)
        return
    clock = "cpu" if threads == 1 else "wall"
    prepare(jobs[0])
    with Contest(jobs, clock, print) as contest:
        rounds = contest.rounds(options.seconds, options.round_seconds)
        measurement = {
            **key,
            "clock": clock,
            "when": time.strftime("%Y-%m-%d %H:%M"),
            "contenders": {name: figure.as_dict() for name, figure in rounds.figures.items()},
            "cores_busy_elsewhere": round(rounds.busy_elsewhere, 2),
            "memory": contest.ask_each(do="memory"),
            "gemm_gflops": {n: round(a["gflops"], 1) for n, a in contest.ask_each(do="gemm").items()},
            "layers": layers_of(contest),
            "differences": differences,
            "failures": dict(contest.failures),
        }
    results.add(measurement)
    results.path.with_suffix(".md").write_text(page(results), encoding="utf-8")
    report(measurement)


def job_of(contender: str, net: BenchNet, task: str, batch: int, threads: int, folder: Path) -> Job:
    """A contender's job in a measurement."""
    kind = "train" if task == "train" else "infer"
    return Job(contender, net.name, kind, batch, threads, str(folder / net.name))


def layers_of(contest: Contest) -> list[dict[str, Any]]:
    """What netc's layers take, where it is among the contenders."""
    netc = contest.contenders.get("netc")
    return netc.ask(do="layers", iterations=5)["layers"] if netc and netc.job.task == "train" else []


def report(measurement: dict[str, Any]) -> None:
    for name, figure in measurement["contenders"].items():
        peak = measurement["memory"].get(name, {}).get("peak_of_steps", 0) / 2**20
        print(
            f"  {name:14s}{figure['median_ms']:10.3f} ms ({figure['min_ms']:.3f} to {figure['max_ms']:.3f},"
            f" {figure['rounds']} rounds of {figure['steps_per_round']}), {peak:.0f} MiB"
        )
    ratio = advantage(measurement)
    if ratio is not None:
        print(f"  netc is {ratio:.2f} times as fast as the best of the others", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NetcError as error:
        sys.exit(str(error))
