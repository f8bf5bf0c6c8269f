"""A contender in a process of its own: prepares a job, then runs steps when it is told to.

    python -m bench.worker JOB

JOB is a job as JSON. Requests come as lines of JSON on standard input, each answered by one line on standard
output; between them the process sleeps, so that contenders can take turns. It ends with its input.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from bench.job import Job, Runner

KIB: Final = 1024
GEMM_SIZE: Final = 2048
# Whether it is netc, whether it measures single layers: the module and its class.
RUNNERS: Final = {
    (True, False): ("netc_runner", "NetcRunner"),
    (True, True): ("netc_layer_runner", "NetcLayerRunner"),
    (False, False): ("torch_runner", "TorchRunner"),
    (False, True): ("torch_layer_runner", "TorchLayerRunner"),
}


def make_runner(job: Job) -> Runner:
    """The runner of a job's contender; only its own libraries are loaded."""
    module, name = RUNNERS[job.contender == "netc", job.task == "layers"]
    runner: Runner = getattr(importlib.import_module(f"bench.{module}"), name)(job)
    return runner


class Worker:
    """Answers requests about one job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.runner = make_runner(job)
        self.before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to {"do": what, ...}."""
        return ANSWERS[request["do"]](self, request)

    def run(self, request: Mapping[str, Any]) -> dict[str, float]:
        """The wall and processor seconds that `steps` steps took together."""
        self.runner.wait()
        wall, cpu = time.perf_counter(), time.process_time()
        self.runner.run(request["steps"])
        self.runner.wait()
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}

    def results(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Writes what the last step came to into a file of the folder."""
        import numpy as np

        np.savez(f"{request['folder']}/results-{self.job.contender}.npz", **self.runner.results())
        return {}

    def memory(self, request: Mapping[str, Any]) -> dict[str, int]:
        """Bytes: the most that the process ever took, the most while it ran steps, and of the device's."""
        ever = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
        forget_peak()
        self.run({"steps": 2})
        return {"peak": ever, "peak_of_steps": resident_peak(), "device": self.runner.memory()}

    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Prepares one direction of a single layer."""
        return self.runner.load(request["layer"], request["direction"])  # type: ignore[attr-defined]

    def copy(self, request: Mapping[str, Any]) -> dict[str, float]:
        """The GB/s, read and written, of the fastest of a few copies within the device; netc only."""
        return {"gigabytes": self.runner.copy_rate()}  # type: ignore[attr-defined]

    def gemm(self, request: Mapping[str, Any]) -> dict[str, float]:
        """The GFLOP/s of the fastest of a few square products by the contender's library."""
        size = request.get("size", GEMM_SIZE)
        seconds = []
        for _ in range(request.get("products", 6)):
            self.runner.wait()
            start = time.perf_counter()
            self.runner.multiply(size)
            self.runner.wait()
            seconds.append(time.perf_counter() - start)
        return {"gflops": 2 * size**3 / min(seconds) / 1e9}

    def layers(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What each layer takes; netc only."""
        from bench.layer_times import time_layers

        return {"layers": time_layers(self.runner, request["iterations"])}


ANSWERS: Final[Mapping[str, Callable[[Worker, Mapping[str, Any]], dict[str, Any]]]] = {
    "run": Worker.run,
    "results": Worker.results,
    "memory": Worker.memory,
    "gemm": Worker.gemm,
    "layers": Worker.layers,
    "load": Worker.load,
    "copy": Worker.copy,
}


def resident_peak() -> int:
    """The most bytes that this process had in memory since `forget_peak`, or ever."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KIB
    return 0


def forget_peak() -> None:
    """Starts the system's record of this process's peak anew."""
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")


def main() -> None:
    # Libraries may print: standard output becomes the error's, and the answers get a channel of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(Job(**json.loads(sys.argv[1])))
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(worker.answer(json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
