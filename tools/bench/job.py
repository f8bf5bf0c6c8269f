"""One contender's part in a measurement: what a worker process is told to prepare and run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

MOMENTUM: Final = 0.9
DECAY: Final = 0.0005
WEIGHTS_FILE: Final = "weights.npz"  # every parameter by "layer/index"


@dataclass(frozen=True)
class Job:
    """A contender, a net, a task and where it runs.

    task: "train" (forward, backward, update), "infer", or "layers" for single layers; device: "cpu", or a
    GPU's number; math: "fp32", "tf32" or "bf16"; rate: the learning rate; dropout: False leaves it out;
    folder: where the net's weights, batches and recipes lie.
    """

    contender: str
    net: str
    task: str
    batch: int
    threads: int
    folder: str
    device: str = "cpu"
    math: str = "fp32"
    rate: float = 1e-6
    dropout: bool = True

    def text(self) -> str:
        return json.dumps(asdict(self))

    @property
    def batch_file(self) -> Path:
        return Path(self.folder) / f"batch-{self.batch}.npz"

    @property
    def weights_file(self) -> Path:
        return Path(self.folder) / WEIGHTS_FILE

    @property
    def recipe_file(self) -> Path:
        return Path(self.folder) / f"{self.task}-{self.batch}-{'dropout' if self.dropout else 'plain'}.json"


class Runner(Protocol):
    """A job that is ready to run."""

    def run(self, steps: int) -> None:
        """So many passes of the task, one after another; a GPU may still be at it when this returns."""

    def wait(self) -> None:
        """Returns when everything asked for is done."""

    def results(self) -> dict[str, np.ndarray]:
        """What the last step came to: "loss", or the outputs by blob name."""

    def memory(self) -> int:
        """The most bytes of the device's memory that were taken so far; 0 on the CPU."""

    def multiply(self, size: int) -> None:
        """One product of two square matrices by the contender's library."""
