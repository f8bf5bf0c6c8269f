"""Which kernels run a convolution: in each direction the fastest of those that can, found by the tuner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial

from netc.backends.cuda.convolution import conv, conv_last, conv_mma, depthwise, winograd
from netc.backends.cuda.convolution.shape import PLAIN_SIDES, ConvShape, Layouts
from netc.backends.cuda.convolution.work import Candidate, Filters, Images
from netc.backends.cuda.device import Device, Memory
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES
from netc.backends.cuda.tuning import choose
from netc.backends.form import Mode, Run

LEAST_MMA_ARCHITECTURE = 80
MOST_PACKED_BYTES = 1 << 30  # of workspace, for what plain images are turned into
# By direction: what its kernels are given, and as what the first three of that are as large.
WORK: dict[str, tuple[Callable[..., Images | Filters], tuple[str, str, str]]] = {
    "forward": (Images, ("x", "w", "y")),
    "backward_data": (Images, ("y", "w", "x")),
    "backward_weights": (Filters, ("x", "y", "w")),
}


class ConvChoice:
    """The kernels of one convolution, each direction's chosen when it is first asked for."""

    def __init__(self, device: Device, mode: Mode, shape: ConvShape, layouts: Layouts) -> None:
        self._device, self._mode, self._shape, self._layouts = device, mode, shape, layouts

    @cached_property
    def forward(self) -> Candidate:
        return self._choose("forward")

    @cached_property
    def backward_data(self) -> Candidate:
        return self._choose("backward_data")

    @cached_property
    def backward_weights(self) -> Candidate:
        return self._choose("backward_weights")

    def _choose(self, direction: str) -> Candidate:
        device, shape, (work, operands) = self._device, self._shape, WORK[direction]
        math, layouts = self._mode.math, self._layouts
        found = {
            candidate.name: candidate for candidate in candidates(direction, device, shape, math, layouts)
        }
        floats = {"x": shape.x_count, "y": shape.y_count, "w": shape.weight_count}
        sizes = {operand: floats[operand] * FLOAT_BYTES for operand in operands}
        sizes["workspace"] = max(candidate.floats for candidate in found.values()) * FLOAT_BYTES

        def bind(candidate: Candidate, memories: Mapping[str, Memory]) -> Run:
            given = [memories[operand] for operand in operands]
            room = memories["workspace"].part(0, candidate.floats * FLOAT_BYTES) if candidate.floats else None
            return candidate.bind(device, shape, work(*given, workspace=room))

        ways = {name: partial(bind, candidate) for name, candidate in found.items()}
        done = f"{direction} {math} {shape}{'' if layouts.are_plain else f' {layouts}'}"
        return found[choose(device, self._mode, done, ways, sizes)]


def on_tensor_cores(device: Device, math: str) -> bool:
    """Whether convolutions, but for depthwise ones, run on tensor cores, to which every layout is right."""
    return math in conv_mma.NUMBERS and device.properties.architecture >= LEAST_MMA_ARCHITECTURE


def candidates(
    direction: str, device: Device, shape: ConvShape, math: str, layouts: Layouts = PLAIN_SIDES
) -> list[Candidate]:
    """What can run a direction, in the order in which a rule would take it.

    Layouts other than plain ones need `on_tensor_cores`, those of depthwise convolutions that both are alike.
    """
    if shape.is_depthwise:
        return [depthwise.candidate(direction, device, shape, layouts.x)]
    if on_tensor_cores(device, math):
        turned = conv_last.candidates(direction, device, shape, math, layouts)
        if not layouts.are_plain:
            return turned
        fitting = [candidate for candidate in turned if candidate.floats * FLOAT_BYTES <= MOST_PACKED_BYTES]
        return [*conv_mma.candidates(direction, device, shape, math), *fitting]
    direct = conv.candidates(direction, device, shape)
    if direction == "backward_weights" or not winograd.can_run(device, shape):
        return direct
    small, large = (winograd.candidate(direction, shape, m) for m in winograd.TILE_SIZES)
    return [small, *direct, large] if winograd.pays(device, shape) else [*direct, small, large]
