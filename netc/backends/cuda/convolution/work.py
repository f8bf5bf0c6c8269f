"""What the kernels of a convolution are given, and what a family of them offers for one direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from netc.backends.cuda.convolution.conv_last_images import Reading
from netc.backends.cuda.convolution.shape import ConvShape
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES
from netc.backends.form import Run
from netc.errors import NetcError

NO_RELU = 1.0  # the slope of a ReLU that changes nothing


@dataclass(frozen=True)
class Images:
    """What "forward" and "backward_data" work on: target = relu(factor (w * source) + bias + residual).

    Forward goes from x to y; backward_data, which a deconvolution runs forward, from y to x, with w turned by
    half a circle. slope: what becomes of negative results; workspace: as much as a candidate asks for;
    packed: whether the source is what the candidate's `packs` has made of it; factor: of each channel;
    residual: lies as the target does; moments: what gets those of w * source + bias, in as many parts of each
    channel as the candidate says, (channels, parts, MOMENTS) floats.
    """

    source: Memory
    w: Memory
    target: Memory
    bias: Memory | None = None
    slope: float = NO_RELU
    workspace: Memory | None = None
    packed: bool = False
    factor: Memory | None = None
    residual: Memory | None = None
    moments: Memory | None = None

    @property
    def ending(self) -> tuple[Argument, ...]:
        """ENDING of kernels/epilogue.cuh."""
        return self.bias, self.factor, self.residual, np.float32(self.slope)

    @property
    def ends_long(self) -> bool:
        """Whether there is more to it than a bias and a ReLU."""
        return any(memory is not None for memory in (self.factor, self.residual, self.moments))


@dataclass(frozen=True)
class Filters:
    """What "backward_weights" works on: dw += dy * x, in the same order of additions every time.

    packed: whether dy is what the candidate's `packs` has made of it.
    """

    x: Memory
    dy: Memory
    dw: Memory
    workspace: Memory | None = None
    packed: bool = False


@dataclass(frozen=True)
class Candidate:
    """One way to compute one direction.

    family: what dumps call it; name: the same with its tile; bind: given the device, the shape, and `Images`
    or `Filters`, decides all there is to decide and returns what to run; floats: the workspace that it needs,
    0 for none; packs: what it makes of the source, or of dy, before it reads it, None for nothing;
    moment_parts: in how many parts a forward pass can leave each channel's moments, 0 for not at all.
    """

    family: str
    name: str
    bind: Callable[[Device, ConvShape, Any], Run]
    floats: int = 0
    packs: Reading | None = None
    moment_parts: int = 0


def workspace_of(work: Images | Filters, floats: int) -> Memory:
    """The workspace. Raises NetcError where it has less than so many floats."""
    workspace = work.workspace
    if workspace is None or workspace.nbytes < floats * FLOAT_BYTES:
        raise NetcError(
            "a convolution was given too little workspace",
            expected=f"{floats * FLOAT_BYTES:,} bytes",
            found=f"{workspace.nbytes if workspace else 0:,} bytes",
        )
    return workspace
