"""PyTorch's part in a measurement, in the ways that its users have: eager, channels last, compiled."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from bench.job import DECAY, MOMENTUM, Job
from bench.recipe_file import Recipe
from bench.torch_peer import Peer, to_tensors


@dataclass(frozen=True)
class Way:
    """How PyTorch runs: the images' memory format, one kernel for the whole update, compiled or not."""

    channels_last: bool = False
    fused: bool = False
    compiled: bool = False


WAYS: Final = {
    "eager": Way(),
    "channels_last": Way(channels_last=True, fused=True),
    "compile": Way(channels_last=True, fused=True, compiled=True),
}


class TorchRunner:
    """The net of a job in PyTorch, its batch on the device."""

    def __init__(self, job: Job) -> None:
        self.job, self.way = job, WAYS[job.contender]
        self.device = "cpu" if job.device == "cpu" else f"cuda:{job.device}"
        torch.set_num_threads(job.threads)
        choose_math(self.device, job.math)
        recipe = Recipe.from_text(job.recipe_file.read_text())
        self.peer = Peer(recipe)
        with np.load(job.weights_file) as weights:
            self.peer.load(weights)
        with np.load(job.batch_file) as batch:
            self.inputs = list(to_tensors(recipe, batch, self.device))
        self.peer.to(self.device)
        if self.way.channels_last:
            self.peer.to(memory_format=torch.channels_last)
            self.inputs[0] = self.inputs[0].contiguous(memory_format=torch.channels_last)
        self.loss: torch.Tensor | None = None
        self.outputs: list[torch.Tensor] = []
        self._prepare()

    def _prepare(self) -> None:
        training = self.job.task == "train"
        self.peer.train(training)
        if training:
            groups = self.peer.groups(self.job.rate, DECAY)
            self.optimizer = torch.optim.SGD(
                groups, lr=self.job.rate, momentum=MOMENTUM, fused=True if self.way.fused else None
            )
        if self.way.compiled and not training:
            # Weights are constants to an inference program: PyTorch may then fold and pack them.
            torch._inductor.config.freezing = True
        self.module: Any = torch.compile(self.peer) if self.way.compiled else self.peer
        self.step = self._train if training else self._infer

    def _casting(self) -> AbstractContextManager[Any]:
        if self.job.math != "bf16":
            return nullcontext()
        return torch.autocast(self.device.split(":")[0], torch.bfloat16)

    def _train(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with self._casting():
            self.loss, _ = self.module(*self.inputs)
        self.loss.backward()
        self.optimizer.step()

    def _infer(self) -> None:
        # Freezing needs no_grad; inference_mode saves a little more elsewhere.
        with torch.no_grad() if self.way.compiled else torch.inference_mode(), self._casting():
            _, self.outputs = self.module(*self.inputs)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()

    def results(self) -> dict[str, np.ndarray]:
        if self.loss is not None:
            return {"loss": self.loss.detach().float().cpu().numpy().reshape(1)}
        names = self.peer.recipe.outputs
        return {name: value.float().cpu().numpy() for name, value in zip(names, self.outputs, strict=True)}

    def memory(self) -> int:
        return torch.cuda.max_memory_reserved() if self.device != "cpu" else 0

    def multiply(self, size: int) -> None:
        if not hasattr(self, "_matrix"):
            self._matrix = torch.ones((size, size), device=self.device)
        self._product = self._matrix @ self._matrix


def choose_math(device: str, math: str) -> None:
    """What PyTorch's products of float32 are computed in on a GPU; and cuDNN times its algorithms."""
    if device == "cpu":
        return
    torch.backends.cudnn.benchmark = True
    precision = "ieee" if math == "fp32" else "tf32"
    torch.backends.cuda.matmul.fp32_precision = precision
    torch.backends.cudnn.conv.fp32_precision = precision
