"""Writes what all contenders of one net start from: weights, batches, recipes.

python -m bench.prepare NET FOLDER
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from bench.job import WEIGHTS_FILE, Job
from bench.nets import BenchNet, definition_for, images, net_named, training_net
from bench.recipe import write_recipe
from netc.graph import Build, Graph, State, build_graph
from netc.passes import run_passes
from netc.proto import netc_pb2 as pb
from netc.runtime import Net

FIRST_BATCH = 8  # images in the pass that gives batch norms their statistics
PHASES = {"train": pb.TRAIN, "infer": pb.TEST}


def prepare(job: Job) -> None:
    """Writes the files of a job; the weights, in a process of their own, where there are none newer than
    the net."""
    net = net_named(job.net)
    Path(job.folder).mkdir(parents=True, exist_ok=True)
    if is_older(job.weights_file, net.file("train_val.prototxt")):
        environment = {**os.environ, "PYTHONPATH": python_path()}
        subprocess.run(
            [sys.executable, "-m", "bench.prepare", job.net, job.folder], env=environment, check=True
        )
    if not job.batch_file.exists():
        np.savez(job.batch_file, **images(net, job.batch))
    job.recipe_file.write_text(write_recipe(graph_of(net, job)).text())


def is_older(made: Path, source: Path) -> bool:
    """Whether a file is not there, or was made before its source was last changed."""
    return not made.exists() or made.stat().st_mtime < source.stat().st_mtime


def python_path() -> str:
    """The folders in which a process of its own finds these modules and netc."""
    tools = Path(__file__).resolve().parents[1]
    return os.pathsep.join(map(str, (tools, tools.parent)))


def graph_of(net: BenchNet, job: Job) -> Graph:
    """The graph of a job's net, without parameters."""
    definition = definition_for(net, job.task, job.batch, job.dropout)
    return run_passes(build_graph(definition, Build(State(PHASES[job.task], 0, frozenset()))))


def write_weights(net: BenchNet, folder: Path) -> None:
    """Writes the parameters as their fillers make them, after one pass for the statistics of batch norms."""
    made = Net(training_net(net, FIRST_BATCH), pb.TRAIN, keep="outputs", backward=False, seed=1)
    for name, array in images(net, FIRST_BATCH).items():
        made.blobs[name].data[...] = array
    made.forward()
    weights = {
        f"{name}/{index}": blob.data
        for name, blobs in made.params.items()
        for index, blob in enumerate(blobs)
    }
    # Written whole or not at all: a run that is stopped here leaves nothing half written behind.
    unfinished = folder / f"unfinished-{WEIGHTS_FILE}"
    np.savez(unfinished, **weights)
    unfinished.rename(folder / WEIGHTS_FILE)


if __name__ == "__main__":
    write_weights(net_named(sys.argv[1]), Path(sys.argv[2]))
