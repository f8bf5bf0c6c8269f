"""Measures netc on a GPU beside PyTorch, and writes a table and a result file.

    python tools/bench_gpu.py -part convolutions|memory|nets [-math fp32,tf32,bf16] [-device 0]

convolutions: single ones, each direction of them, against cuDNN and the device's measured peak; memory: what
memory bounds, against the measured bandwidth of a copy; nets: whole training steps. What the result file has
already is not measured again unless -again is given, and no measurement is begun after -minutes: a run that
stops early says so, and the same command goes on where it stopped. See benchmarks/readme.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bench.agreement import check
from bench.contest import Contest
from bench.job import Job
from bench.layer_table import CONVOLUTIONS, DIRECTIONS, MEMORY_BOUND
from bench.machine import describe_machine, slug, versions
from bench.nets import NETS
from bench.options import add_options, words
from bench.prepare import prepare
from bench.results import Results, table
from netc.errors import NetcError

KEYS: Final = ("part", "name", "direction", "math")
PEERS: Final = ("eager", "channels_last", "compile")
LAYER_PEERS: Final = ("eager", "channels_last")
MATHS: Final = ("fp32", "tf32", "bf16")
GEMM_SIZE: Final = 8192  # large enough for the device's library to reach its peak
GIGA: Final = 1e9


Key = dict[str, str]


class ContenderLost(Exception):
    """One of the processes has ended; the measurement says why."""


class OutOfTime(Exception):
    """The run's minutes are over."""


class Bench:
    """One run: its options, its results, and how much time is left."""

    def __init__(self, options: argparse.Namespace, results: Results) -> None:
        self.options, self.results = options, results
        self.end = time.monotonic() + 60 * options.minutes

    def is_due(self, key: Mapping[str, Any]) -> bool:
        """Whether a measurement is still to be taken. Raises OutOfTime where there is no time for it."""
        if self.results.has(**key) and not self.options.again:
            return False
        if time.monotonic() > self.end:
            raise OutOfTime
        return True

    def job(self, contender: str, math: str, net: str = "", task: str = "layers", batch: int = 0) -> Job:
        folder = str(self.options.folder / (net or "layers"))
        return Job(contender, net, task, batch, 1, folder, self.options.device, math)

    def convolutions(self, math: str) -> None:
        """Every direction of every convolution."""
        rows = {row.name: row for row in CONVOLUTIONS}

        def measure(contest: Contest, keys: Sequence[Key]) -> None:
            asked = contest.ask_only("eager", do="gemm", size=GEMM_SIZE)
            peak = max((answer["gflops"] for answer in asked.values()), default=0.0)
            for key in keys:
                more = {"gflop": rows[key["name"]].flops / GIGA, "peak_gflops": peak}
                self._measure_layer(contest, key, more)

        keys = [
            {"part": "convolutions", "name": name, "direction": direction, "math": math}
            for name in rows
            for direction in DIRECTIONS
        ]
        self._measure_each(keys, [self.job(name, math) for name in ("netc", *LAYER_PEERS)], measure)

    def memory(self, math: str) -> None:
        """Forward and backward of every layer that memory bounds; netc alone, beside a copy."""

        def measure(contest: Contest, keys: Sequence[Key]) -> None:
            copies = contest.ask_each(do="copy")
            for key in keys:
                self._measure_layer(contest, key, {"copy_gigabytes": copies["netc"]["gigabytes"]})

        keys = [
            {"part": "memory", "name": row.name, "direction": direction, "math": math}
            for row in MEMORY_BOUND
            for direction in ("forward", "backward")
        ]
        self._measure_each(keys, [self.job("netc", math)], measure)

    def _measure_each(
        self, keys: Sequence[Key], jobs: Sequence[Job], measure: Callable[[Contest, Sequence[Key]], None]
    ) -> None:
        """Measures what is due, with new processes after one of them has failed."""
        while due := [key for key in keys if self.is_due(key)]:
            with Contest(jobs, "wall", print) as contest:
                try:
                    measure(contest, due)
                except ContenderLost as lost:
                    if not self.results.has(**due[0]):
                        raise NetcError("no contender could be started", found=str(lost)) from None

    def _measure_layer(self, contest: Contest, key: Key, more: Mapping[str, float]) -> None:
        self.is_due(key)
        loaded = contest.ask_each(do="load", layer=key["name"], direction=key["direction"])
        rounds = contest.rounds(self.options.seconds, self.options.round_seconds)
        figures = {name: figure.as_dict() for name, figure in rounds.figures.items()}
        for name, figure in figures.items():
            figure.update(rates(figure["median_ms"], more, loaded[name].get("bytes", 0)))
        self._add({**key, **more, "contenders": figures, "failures": dict(contest.failures)})
        if contest.failures:
            raise ContenderLost(contest.failures)

    def nets(self, math: str) -> None:
        """Training steps of whole nets."""
        for net in NETS:
            if not net.gpu_batch or net.name not in self.options.nets:
                continue
            key = {"part": "nets", "name": net.name, "direction": "train", "math": math}
            if not self.is_due(key):
                continue
            jobs = [self.job(name, math, net.name, "train", net.gpu_batch) for name in ("netc", *PEERS)]
            differences = check(jobs, demand=math == "fp32")
            prepare(jobs[0])
            with Contest(jobs, "wall", print) as contest:
                rounds = contest.rounds(self.options.seconds, self.options.round_seconds)
                measurement = {
                    **key,
                    "batch": net.gpu_batch,
                    "contenders": {name: figure.as_dict() for name, figure in rounds.figures.items()},
                    "memory": contest.ask_each(do="memory"),
                    "differences": differences,
                    "failures": dict(contest.failures),
                }
            self._add(measurement)

    def _add(self, measurement: dict[str, Any]) -> None:
        self.results.add({**measurement, "when": time.strftime("%Y-%m-%d %H:%M")})
        print(table([measurement], KEYS).splitlines()[-1], flush=True)


PARTS: Final[Mapping[str, Callable[[Bench, str], None]]] = {
    "convolutions": Bench.convolutions,
    "memory": Bench.memory,
    "nets": Bench.nets,
}


def rates(median_ms: float, more: Mapping[str, float], nbytes: int) -> dict[str, float]:
    """What a layer's time comes to: TFLOP/s and its share of the peak, or GB/s and its share of a copy's."""
    seconds = median_ms / 1e3
    if "gflop" in more:
        gflops, peak = more["gflop"] / seconds, more["peak_gflops"]
        return {
            "tflops": round(gflops / 1e3, 3),
            "share_of_peak": round(gflops / peak, 4) if peak else 0.0,
        }
    gigabytes = nbytes / seconds / GIGA
    return {
        "gigabytes": round(gigabytes, 1),
        "share_of_copy": round(gigabytes / more["copy_gigabytes"], 4),
    }


def device_name(device: str) -> str:
    """The name of a GPU. Raises NetcError where there is none, with the remedy."""
    if not device.isdecimal():
        raise NetcError("only a GPU is measured", expected="the number of a GPU, such as 0", found=device)
    from netc.backends.cuda.open import open_device

    return open_device(device).properties.name


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-part", choices=list(PARTS), required=True, help="what to measure")
    parser.add_argument("-math", type=words, default=list(MATHS), help="which of fp32, tf32, bf16")
    parser.add_argument("-device", default="0", help="the GPU's number")
    parser.add_argument("-minutes", type=float, default=7, help="begin no measurement after this time")
    add_options(parser, seconds=8, round_seconds=0.1)
    return parser.parse_args()


def main() -> int:
    options = read_options()
    name = device_name(options.device)
    results = Results(options.results / f"{slug(name)}.json", KEYS)
    results.content["machine"] = {"device": name, **describe_machine()}
    results.content["versions"] = versions()
    bench = Bench(options, results)
    try:
        for math in options.math:
            PARTS[options.part](bench, math)
    except OutOfTime:
        print("out of time: the same command goes on from here")
        return 3
    print(table([m for m in results.measurements if m["part"] == options.part], KEYS))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NetcError as error:
        sys.exit(str(error))
