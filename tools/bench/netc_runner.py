"""netc's part in a measurement: a solver that trains, or a net that infers, on one batch."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from bench.job import DECAY, MOMENTUM, Job
from bench.nets import definition_for, net_named
from netc.backends.backend import Backend
from netc.backends.open import open_backend
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.solver import Solver


class NetcRunner:
    """The net of a job in netc, its batch filled in once."""

    def __init__(self, job: Job) -> None:
        logging.getLogger("netc").setLevel(logging.WARNING)
        self.job = job
        self.backend = open_backend("" if job.device == "cpu" else job.device, math=job.math)
        self.free_before = free_bytes(self.backend)
        definition = definition_for(net_named(job.net), job.task, job.batch, job.dropout)
        self.solver = self._solver(definition) if job.task == "train" else None
        self.net = (
            self.solver.net
            if self.solver
            else Net(definition, pb.TEST, keep="outputs", backward=False, seed=1, backend=self.backend)
        )
        load_weights(self.net, job)
        batch = np.load(job.batch_file)
        for name in self.net.inputs:
            self.net.blobs[name].data[...] = batch[name]

    def _solver(self, definition: pb.NetParameter) -> Solver:
        return Solver(training_solver(definition, self.job.rate), backend=self.backend)

    def run(self, steps: int) -> None:
        if self.solver:
            self.solver.step(steps)
            return
        for _ in range(steps):
            self.net.forward()

    def wait(self) -> None:
        synchronise(self.backend)

    def results(self) -> dict[str, np.ndarray]:
        if self.solver:
            return {"loss": np.float32(self.solver.loss).reshape(1)}
        return {output.name: output.data.copy() for output in self.net.output_values()}

    def memory(self) -> int:
        return self.free_before - free_bytes(self.backend)

    def multiply(self, size: int) -> None:
        a = np.ones((size, size), np.float32)
        self._product: Any = a @ a


def free_bytes(backend: Backend) -> int:
    """The memory of the backend's device that is free; 0 on the CPU."""
    device = getattr(backend, "device", None)
    return int(device.free_bytes()) if device is not None else 0


def synchronise(backend: Backend) -> None:
    """Returns when the backend's device, if it has one, has done what it was asked for."""
    device = getattr(backend, "device", None)
    if device is not None:
        device.synchronise()


def training_solver(definition: pb.NetParameter, rate: float) -> pb.SolverParameter:
    """Stochastic gradient descent with momentum at a rate that stays, silent and without snapshots."""
    return pb.SolverParameter(
        net_param=definition,
        type="SGD",
        base_lr=rate,
        momentum=MOMENTUM,
        weight_decay=DECAY,
        lr_policy="fixed",
        max_iter=1_000_000_000,
        random_seed=1,
        snapshot_after_train=False,
    )


def load_weights(net: Net, job: Job) -> None:
    """Fills the net's parameters from the job's file, as from a weights file: a net that has handed out its
    parameters must bring them into the primitives' order in every pass."""
    with np.load(job.weights_file) as weights:
        net.load_weights_from(
            {
                name: [weights[f"{name}/{index}"] for index in range(len(blobs))]
                for name, blobs in net.weights().items()
            }
        )
