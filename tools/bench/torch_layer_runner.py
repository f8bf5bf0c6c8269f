"""PyTorch's part in the measurement of single layers: convolutions by cuDNN, one direction at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from bench.job import Job
from bench.layer_table import CONVOLUTIONS
from bench.torch_runner import WAYS, choose_math

ROWS = {row.name: row for row in CONVOLUTIONS}
MASKS = {"backward_data": [True, False, False], "backward_weights": [False, True, False]}


class TorchLayerRunner:
    """Runs the convolution that was loaded last."""

    def __init__(self, job: Job) -> None:
        self.way = WAYS[job.contender]
        self.device = "cpu" if job.device == "cpu" else f"cuda:{job.device}"
        torch.set_num_threads(job.threads)
        choose_math(self.device, job.math)
        self.dtype = torch.bfloat16 if job.math == "bf16" else torch.float32
        self.step: Callable[[], Any] = lambda: None

    def load(self, name: str, direction: str) -> dict[str, Any]:
        """Prepares one direction of a convolution."""
        row = ROWS[name]
        x = self._random(row.bottom)
        w = self._random((row.k, row.c // row.group, row.r, row.r))
        dy = self._random((row.n, row.k, row.output, row.output))
        stride, pad = [row.stride] * 2, [row.pad] * 2

        def forward() -> torch.Tensor:
            return F.conv2d(x, w, None, stride, pad, 1, row.group)

        def backward() -> Any:
            return torch.ops.aten.convolution_backward(
                dy, x, w, None, stride, pad, [1, 1], False, [0, 0], row.group, MASKS[direction]
            )

        self.step = forward if direction == "forward" else backward
        return {}

    def _random(self, shape: tuple[int, ...]) -> torch.Tensor:
        layout = torch.channels_last if self.way.channels_last else torch.contiguous_format
        return torch.randn(shape, device=self.device).to(self.dtype).contiguous(memory_format=layout)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()

    def results(self) -> dict[str, np.ndarray]:
        return {}

    def memory(self) -> int:
        return 0

    def multiply(self, size: int) -> None:
        """A product in the job's math: what the device's own library makes of it is the peak."""
        if not hasattr(self, "_matrix") or len(self._matrix) != size:
            self._matrix = self._random((size, size, 1, 1)).reshape(size, size).contiguous()
        self._product = self._matrix @ self._matrix
