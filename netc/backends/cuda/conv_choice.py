"""Which kernels run a convolution: in each direction the fastest of those that can, found by the tuner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from netc.backends.cuda import conv, conv_mma, depthwise, winograd
from netc.backends.cuda.conv_shape import ConvShape
from netc.backends.cuda.conv_terms import Tables, backward_data_tables, forward_tables
from netc.backends.cuda.device import Device
from netc.backends.cuda.elementwise import FLOAT_BYTES
from netc.backends.cuda.memory import Memory
from netc.backends.cuda.tuner import choose
from netc.backends.form import Mode, Run

LEAST_MMA_ARCHITECTURE = 80
WEIGHT_BLOCKS = (1, 2, 4)  # of `conv_mma` for half a processor: how finely the filters' sums may be split


@dataclass(frozen=True)
class Candidate:
    """One way to compute one direction.

    family: what dumps call it; name: the same with its tile; bind: what `conv_shape` says of the direction's
    function; floats: the workspace that it needs, 0 for none.
    """

    family: str
    name: str
    bind: Callable[..., Run]
    floats: int


class ConvChoice:
    """The kernels of one convolution, each direction's chosen when it is first asked for."""

    def __init__(self, device: Device, mode: Mode, shape: ConvShape) -> None:
        self._device, self._mode, self._shape = device, mode, shape

    @cached_property
    def forward(self) -> Candidate:
        return self._choose("forward", ("x", "w", "y"))

    @cached_property
    def backward_data(self) -> Candidate:
        return self._choose("backward_data", ("y", "w", "x"))

    @cached_property
    def backward_weights(self) -> Candidate:
        return self._choose("backward_weights", ("x", "y", "w"))

    def _choose(self, direction: str, operands: tuple[str, ...]) -> Candidate:
        """operands: the three that the direction's function takes, by what they are as large as."""
        device, shape = self._device, self._shape
        found = {
            candidate.name: candidate for candidate in candidates(direction, device, shape, self._mode.math)
        }
        floats = {"x": shape.x_count, "y": shape.y_count, "w": shape.weight_count}
        sizes = {operand: floats[operand] * FLOAT_BYTES for operand in operands}
        sizes["workspace"] = max(candidate.floats for candidate in found.values()) * FLOAT_BYTES

        def bind(candidate: Candidate, memories: Mapping[str, Memory]) -> Run:
            given = [memories[operand] for operand in operands]
            room = memories["workspace"].part(0, candidate.floats * FLOAT_BYTES) if candidate.floats else None
            return candidate.bind(device, shape, *given, workspace=room)

        ways = {name: partial(bind, candidate) for name, candidate in found.items()}
        return found[choose(device, self._mode, f"{direction} {self._mode.math} {shape}", ways, sizes)]


def candidates(direction: str, device: Device, shape: ConvShape, math: str) -> list[Candidate]:
    """What can run a direction, in the order in which a rule would take it."""
    if shape.is_depthwise:
        kernels = depthwise.KERNELS
        floats = getattr(kernels, f"{direction}_floats")(device, shape)
        return [Candidate(kernels.variant, kernels.variant, getattr(kernels, direction), floats)]
    if math in conv_mma.KERNELS and device.properties.architecture >= LEAST_MMA_ARCHITECTURE:
        return list(_MMA[direction](device, shape, math))
    return list(_SIMT[direction](device, shape))


# ---- ordinary cores ----
def _simt_images(direction: str, device: Device, shape: ConvShape) -> Iterable[Candidate]:
    tables: Tables = (forward_tables if direction == "forward" else backward_data_tables)(shape)
    bind = getattr(conv, direction)
    rule = conv.choose_image_tile(device, shape, tables)
    direct = [
        Candidate("simt", f"simt {tile.m}x{tile.n}", partial(bind, tile=tile), tables.weights)
        for tile in _first(rule, conv.image_tiles(tables))
    ]
    if not winograd.can_run(device, shape):
        return direct
    kernels = winograd.KERNELS[2]
    floats = getattr(kernels, f"{direction}_floats")(device, shape)
    fewer_products = Candidate(kernels.variant, kernels.variant, getattr(kernels, direction), floats)
    return [fewer_products, *direct] if winograd.pays(device, shape) else [*direct, fewer_products]


def _simt_weights(device: Device, shape: ConvShape) -> Iterable[Candidate]:
    for split in _first(conv.choose_split(device, shape), conv.splits(device, shape)):
        yield Candidate(
            "simt",
            f"simt {split.tile.m}x{split.tile.n} in {split.parts}",
            partial(conv.backward_weights, split=split),
            split.floats(shape),
        )


# ---- tensor cores ----
def _mma_images(direction: str, device: Device, shape: ConvShape, math: str) -> Iterable[Candidate]:
    family = conv_mma.KERNELS[math]
    floats = getattr(family, f"{direction}_floats")(device, shape)
    rule = getattr(conv_mma, f"{direction}_tile")(math, device, shape)
    for tile in _first(rule, conv_mma.tiles(math)):
        bind = partial(getattr(conv_mma, direction), math, tile=tile)
        yield Candidate(family.variant, f"{family.variant} {tile.m}x{tile.n}", bind, floats)


def _mma_weights(device: Device, shape: ConvShape, math: str) -> Iterable[Candidate]:
    family, processors = conv_mma.KERNELS[math], device.properties.processors
    rule = conv_mma.weights_tile(math, device, shape)
    first = rule, conv_mma.choose_shares(shape, rule, processors)
    others = [
        (tile, conv_mma.choose_shares(shape, tile, -(-blocks * processors // 2)))
        for tile in conv_mma.tiles(math)
        for blocks in WEIGHT_BLOCKS
    ]
    for tile, shares in _first(first, others):
        yield Candidate(
            family.variant,
            f"{family.variant} {tile.m}x{tile.n} in {shares}",
            partial(conv_mma.backward_weights, math, tile=tile, shares=shares),
            0 if shares == 1 else shares * shape.weight_count,
        )


def _first(one: Any, others: Iterable[Any]) -> Iterable[Any]:
    """Each once, this one first."""
    return dict.fromkeys((one, *others))


_SIMT: dict[str, Callable[[Device, ConvShape], Iterable[Candidate]]] = {
    "forward": partial(_simt_images, "forward"),
    "backward_data": partial(_simt_images, "backward_data"),
    "backward_weights": _simt_weights,
}
_MMA: dict[str, Callable[[Device, ConvShape, str], Iterable[Candidate]]] = {
    "forward": partial(_mma_images, "forward"),
    "backward_data": partial(_mma_images, "backward_data"),
    "backward_weights": _mma_weights,
}
