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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bench.agreement import CHECKED_STEPS, TOLERANCE, disagreement, results_of
from bench.contest import Contest
from bench.job import Job
from bench.machine import describe_machine, processor_name, slug, versions
from bench.nets import NETS, ROOT, BenchNet, net_named
from bench.prepare import prepare
from bench.results import Results, advantage, table
from netc.cores import cores_allowed
from netc.errors import NetcError

KEYS: Final = ("net", "task", "batch", "threads")
CONTENDERS: Final = ("netc", "eager", "channels_last", "compile")
TASKS: Final = ("train", "infer", "single")  # single: inference of one image
CHECK_RATE: Final = 1e-3
CHECK_BATCH: Final = 4


def main() -> int:
    options = read_options()
    results = Results(options.results / f"cpu-{slug(processor_name())}.json", KEYS)
    results.content["machine"] = describe_machine()
    results.content["versions"] = versions()
    for net in (net_named(name) for name in options.nets):
        for task in options.tasks:
            for threads in options.threads:
                measure(options, results, net, task, threads)
    chosen = [m for m in results.measurements if m["net"] in options.nets]
    print(table(chosen, KEYS))
    return 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prefix_chars="-")
    parser.add_argument("-nets", type=_list, default=[net.name for net in NETS], help="which nets")
    parser.add_argument("-tasks", type=_list, default=list(TASKS), help="which of train, infer, single")
    parser.add_argument(
        "-threads",
        type=lambda text: [int(part) for part in _list(text)],
        default=sorted({1, cores_allowed()}),
        help="with how many threads, by default 1 and all cores",
    )
    parser.add_argument("-contenders", type=_list, default=list(CONTENDERS), help="which contenders")
    parser.add_argument("-seconds", type=float, default=60, help="for the rounds of one measurement")
    parser.add_argument("-round_seconds", type=float, default=0.3, help="for one contender's turn")
    parser.add_argument("-check", action="store_true", help="only see whether all compute the same")
    parser.add_argument("-again", action="store_true", help="measure anew what the result file has")
    parser.add_argument("-results", type=Path, default=ROOT / "benchmarks" / "results", help="where to write")
    parser.add_argument(
        "-folder", type=Path, default=ROOT / "build" / "bench", help="for what can be deleted"
    )
    return parser.parse_args()


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


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
    report(measurement)


def job_of(contender: str, net: BenchNet, task: str, batch: int, threads: int, folder: Path) -> Job:
    """A contender's job in a measurement."""
    kind = "train" if task == "train" else "infer"
    return Job(contender, net.name, kind, batch, threads, str(folder / net.name))


def check(jobs: Sequence[Job]) -> dict[str, float]:
    """Runs a few steps of the same net without dropout on a small batch; how far the peers' results are from
    netc's.

    Raises NetcError where they do not compute the same: their times would say nothing.
    """
    small = [
        replace(job, batch=min(CHECK_BATCH, job.batch), dropout=False, rate=CHECK_RATE)
        for job in jobs
        if job.contender != "compile"  # the same module as channels_last; compiling it twice takes long
    ]
    folder = Path(jobs[0].folder)
    prepare(small[0])
    differences: dict[str, float] = {}
    with Contest(small, "wall", print) as contest:
        for _ in range(CHECKED_STEPS if jobs[0].task == "train" else 1):
            contest.ask_each(do="run", steps=1)
            results = results_of(contest, folder)
            ours = results.pop("netc", None)
            for name, theirs in results.items() if ours else ():
                differences[name] = max(disagreement(ours, theirs), differences.get(name, 0.0))
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise NetcError(
                f"netc and {name} do not compute the same",
                expected=f"at most {TOLERANCE:g}",
                found=difference,
            )
    return differences


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
