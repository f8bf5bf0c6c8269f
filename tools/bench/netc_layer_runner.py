"""netc's part in the measurement of single layers: a net of one layer, one direction of it at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from bench.job import Job
from bench.layer_table import CONVOLUTIONS, MEMORY_BOUND, ConvolutionRow, MemoryRow
from bench.netc_runner import synchronise
from netc.backends.open import open_backend
from netc.graph import Node
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.net import parse_net

FLOAT_BYTES = 4
COPIED_BYTES = 1 << 28
COPIES = 20
ROWS: Mapping[str, ConvolutionRow | MemoryRow] = {row.name: row for row in (*CONVOLUTIONS, *MEMORY_BOUND)}


class NetcLayerRunner:
    """Runs the layer that was loaded last."""

    def __init__(self, job: Job) -> None:
        logging.getLogger("netc").setLevel(logging.WARNING)
        self.backend = open_backend("" if job.device == "cpu" else job.device, math=job.math)
        self.step: Callable[[], Any] = lambda: None

    def load(self, name: str, direction: str) -> dict[str, Any]:
        """Prepares one direction of a row; the least bytes that it can move."""
        definition = parse_net(ROWS[name].text(direction)).message
        # Every blob stays, so that gradients are the random numbers that are put there.
        net = Net(definition, pb.TRAIN, keep="all", seed=1, backend=self.backend)
        rng = np.random.default_rng(3)
        for blob in net.blobs.values():
            blob.data[...] = rng.standard_normal(blob.data.shape, np.float32)
        top = net.blobs["top"]
        if direction != "forward" and top.diff is not None:
            top.diff[...] = rng.standard_normal(top.diff.shape, np.float32)
        net.forward()
        net.backend.push()
        self.net = net
        node = next(node for node in net.graph.nodes if node.name == "layer")
        run = net.program.forward if direction == "forward" else net.program.backward
        self.step = partial(run, [node])
        return {"bytes": least_bytes(node)}

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def wait(self) -> None:
        synchronise(self.backend)

    def results(self) -> dict[str, np.ndarray]:
        return {}

    def memory(self) -> int:
        return 0

    def copy_rate(self) -> float:
        """GB/s of the fastest of a few copies of 256 MiB, counted as read and as written."""
        source, target = (self.backend.allocate(COPIED_BYTES, name) for name in ("source", "target"))
        seconds = []
        for _ in range(COPIES):
            self.wait()
            start = time.perf_counter()
            with self.backend.active():
                target[...] = source
            self.wait()
            seconds.append(time.perf_counter() - start)
        return 2 * COPIED_BYTES / min(seconds) / 1e9

    def multiply(self, size: int) -> None:
        """Nothing: the peak is the peer's library's."""


def least_bytes(node: Node) -> int:
    """The bytes of a layer's bottoms and tops, each once: what either direction cannot do without."""
    return FLOAT_BYTES * sum(int(np.prod(value.shape)) for value in (*node.inputs, *node.outputs))
