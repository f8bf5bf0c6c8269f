"""What the kernels of a convolution are given, and what a family of them offers for one direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from netc.backends.cuda.conv_last_images import Reading
from netc.backends.cuda.conv_shape import ConvShape
from netc.backends.cuda.device import Device
from netc.backends.cuda.elementwise import FLOAT_BYTES
from netc.backends.cuda.memory import Memory
from netc.backends.form import Run
from netc.errors import NetcError

NO_RELU = 1.0  # the slope of a ReLU that changes nothing


@dataclass(frozen=True)
class Images:
    """What "forward" and "backward_data" work on: target = relu(w * source + bias).

    Forward goes from x to y; backward_data, which a deconvolution runs forward, from y to x, with w turned by
    half a circle. slope: what becomes of negative results; workspace: as much as a candidate asks for;
    packed: whether the source is what the candidate's `packs` has made of it.
    """

    source: Memory
    w: Memory
    target: Memory
    bias: Memory | None = None
    slope: float = NO_RELU
    workspace: Memory | None = None
    packed: bool = False


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
    0 for none; packs: what it makes of the source, or of dy, before it reads it, None for nothing.
    """

    family: str
    name: str
    bind: Callable[[Device, ConvShape, Any], Run]
    floats: int = 0
    packs: Reading | None = None


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
