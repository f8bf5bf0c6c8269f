"""Parts of a convolution on channels-last values that are faster in another way than oneDNN's convolution.

A part works on the arrays of a form by name, as a routine does: "bottom", "top", "weight" and so on. The
functions at the end choose: they give None where no part fits, or it would be slower.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, Protocol

import numpy as np

from netc.backends.cpu.chain import in_sequence
from netc.backends.cpu.depthwise import DepthwiseFilters, depthwise_fits
from netc.backends.cpu.geometry import Geometry
from netc.backends.cpu.onednn import Engine, Refused
from netc.backends.cpu.onednn.product import Product, row_of
from netc.backends.cpu.winograd import Correlation
from netc.backends.cpu.winograd_gradient import FilterGradient
from netc.backends.cpu.winograd_task import FILTER_POINTS, Task, data_task, forward_task
from netc.backends.form import Run
from netc.layer import Array, Scratch

log = logging.getLogger(__name__)


# When the sides of a product are copied, of whose rows each lies where others want to lie: rows of a multiple
# of so many floats, where there are more of them than this, and a copy takes little beside the product, as it
# does if the other side is at least so wide.
COLLIDING: Final = 512
MOST_ROWS: Final = 1024
PAYING: Final = 256


class Part(Protocol):
    """One direction's work, or a piece of it."""

    variant: str

    @property
    def workspace(self) -> Mapping[str, Scratch]:
        """What `bind` must be given."""

    def bind(self, arrays: Mapping[str, Array], workspace: Mapping[str, Array]) -> Run:
        """Its run on these arrays."""


class PointsForward:
    """The top by Winograd's convolution. held: whether `bind` is given the filters' points, as "weight"."""

    def __init__(self, engine: Engine, task: Task, slope: float | None, *, held: bool) -> None:
        self.correlation = Correlation(engine, task, slope=1.0 if slope is None else slope)
        self.held = held
        self.variant = f"winograd {task.cells}x{task.cells}"

    @property
    def workspace(self) -> Mapping[str, Scratch]:
        return self.correlation.workspace if self.held else with_points(self.correlation)

    @property
    def packed_nbytes(self) -> int:
        """Of the filters' points."""
        return self.correlation.filters_nbytes

    def pack(self, weight: Array, packed: Array) -> Run:
        """Makes the points of the filters."""
        scratch = self.correlation.workspace["tiles"]
        return self.correlation.prepare(
            weight, packed.view(np.float32), np.empty(scratch.shape, scratch.dtype)
        )

    def bind(self, arrays: Mapping[str, Array], workspace: Mapping[str, Array]) -> Run:
        channels, before = arrays["top"].shape[1], list[Run]()
        bias = arrays.get("bias", np.zeros(channels, np.float32))
        factor, shift = np.ones(channels, np.float32), bias
        if "factor" in arrays:
            factor, shift = arrays["factor"], np.empty(channels, np.float32)
            before.append(partial(scale_bias, factor, bias, arrays["summand"], shift))
        points = arrays["weight"].view(np.float32)
        if not self.held:
            points = workspace[FILTER_POINTS]
            before.append(self.correlation.prepare(arrays["weight"], points, workspace["tiles"]))
        images = arrays["bottom"], arrays["top"]
        run = self.correlation.bind(*images, points, factor, shift, workspace, arrays.get("residual"))
        return in_sequence([*before, run])


class PointsData:
    """The bottom's gradient by Winograd's convolution."""

    def __init__(self, engine: Engine, task: Task) -> None:
        self.correlation = Correlation(engine, task, turned=True)
        self.variant = f"winograd {task.cells}x{task.cells}"

    @property
    def workspace(self) -> Mapping[str, Scratch]:
        return with_points(self.correlation)

    def bind(self, arrays: Mapping[str, Array], workspace: Mapping[str, Array]) -> Run:
        points, result = workspace[FILTER_POINTS], arrays["bottom gradient"]
        channels = result.shape[1]
        ends = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        return in_sequence(
            [
                self.correlation.prepare(arrays["weight"], points, workspace["tiles"]),
                self.correlation.bind(arrays["top gradient"], result, points, *ends, workspace),
            ]
        )


class PointsFilters:
    """The gradients of filters and bias by Winograd's convolution. wanted, adds: of each of the two."""

    def __init__(
        self, engine: Engine, task: Task, wanted: tuple[bool, bool], adds: tuple[bool, bool]
    ) -> None:
        self.gradient = FilterGradient(engine, task)
        self.wanted, self.adds = wanted, adds
        self.variant = f"winograd {task.cells}x{task.cells}"

    @property
    def workspace(self) -> Mapping[str, Scratch]:
        return self.gradient.workspace

    def bind(self, arrays: Mapping[str, Array], workspace: Mapping[str, Array]) -> Run:
        weight, bias = (
            arrays[name] if wanted else None
            for name, wanted in zip(("weight gradient", "bias gradient"), self.wanted, strict=True)
        )
        images = arrays["bottom"], arrays["top gradient"]
        return self.gradient.bind(*images, weight, bias, workspace, adds=self.adds)


class PointwiseFilters:
    """The gradients of 1 x 1 filters and their bias, as products of matrices with a row for each pixel.

    Rows that compete for places in the caches are copied apart first, where there are enough of them.
    """

    variant = "gemm"

    def __init__(
        self, engine: Engine, geometry: Geometry, wanted: tuple[bool, bool], adds: tuple[bool, bool]
    ) -> None:
        self.engine = engine
        self.wanted, self.adds = wanted, adds
        images, inputs, height, width = geometry.bottom
        self.pixels = images * height * width
        self.ones = np.ones((1, self.pixels), np.float32)
        outputs = geometry.top[1]
        self.channels = {"bottom": inputs, "top gradient": outputs}
        self.copied = [
            name
            for name, other in (("bottom", outputs), ("top gradient", inputs))
            if self.pixels > MOST_ROWS and other >= PAYING and self.channels[name] % COLLIDING == 0
        ]

    @property
    def workspace(self) -> Mapping[str, Scratch]:
        return {
            f"{name} apart": Scratch((self.pixels * row_of(self.channels[name]),), np.float32)
            for name in (self.copied if self.wanted[0] else ())
        }

    def bind(self, arrays: Mapping[str, Array], workspace: Mapping[str, Array]) -> Run:
        bottom, top = (
            arrays[name].transpose(0, 2, 3, 1).reshape(-1, channels)
            for name, channels in self.channels.items()
        )
        runs: list[Run] = []
        if self.wanted[0]:
            target = arrays["weight gradient"].reshape(top.shape[1], bottom.shape[1])
            sides = [
                self._apart(name, side, workspace, runs)
                for name, side in zip(self.channels, (bottom, top), strict=True)
            ]
            runs.append(Product(self.engine, sides[1].T, sides[0], target, add=self.adds[0]))
        if self.wanted[1]:
            target = arrays["bias gradient"].reshape(1, top.shape[1])
            runs.append(Product(self.engine, self.ones, top, target, add=self.adds[1]))
        return in_sequence(runs)

    def _apart(self, name: str, side: Array, workspace: Mapping[str, Array], runs: list[Run]) -> Array:
        """A side of the product, or its copy, which is then made first."""
        if name not in self.copied:
            return side
        row = row_of(self.channels[name])
        copy = workspace[f"{name} apart"][: self.pixels * row].reshape(self.pixels, row)[:, : side.shape[1]]
        runs.append(partial(np.copyto, copy, side))
        return copy


def scale_bias(factor: Array, bias: Array, summand: Array, shift: Array) -> None:
    """shift = factor bias + summand."""
    np.multiply(factor, bias, out=shift)
    np.add(shift, summand, out=shift)


def with_points(correlation: Correlation) -> dict[str, Scratch]:
    """What a correlation needs that makes the filters' points at every pass."""
    points = Scratch((correlation.filters_nbytes // np.dtype(np.float32).itemsize,), np.float32)
    return {**correlation.workspace, FILTER_POINTS: points}


def merged(workspaces: Iterable[Mapping[str, Scratch]]) -> dict[str, Scratch]:
    """The workspace of parts that run one after the other: of each name the largest."""
    largest: dict[str, Scratch] = {}
    for workspace in workspaces:
        for name, scratch in workspace.items():
            if name not in largest or scratch.shape > largest[name].shape:
                largest[name] = scratch
    return largest


def forward_part(
    engine: Engine, geometry: Geometry, slope: float | None, *, held: bool
) -> PointsForward | None:
    """What computes the top; None where oneDNN's convolution does."""
    task = forward_task(geometry)
    if task is None or not task.pays(held=held):
        return None
    return made(PointsForward, engine, task, slope, held=held)


def data_part(engine: Engine, geometry: Geometry) -> Part | None:
    """What computes the bottom's gradient; None where oneDNN's convolution does."""
    task = forward_task(geometry)
    if task is None or not data_task(task).pays():
        return None
    return made(PointsData, engine, data_task(task))


def filters_part(
    engine: Engine, geometry: Geometry, wanted: tuple[bool, bool], adds: tuple[bool, bool]
) -> Part | None:
    """What computes the gradients of filters and bias; None where oneDNN's convolution does."""
    if geometry.is_pointwise:
        return PointwiseFilters(engine, geometry, wanted, adds)
    if depthwise_fits(geometry, wanted):
        return made(DepthwiseFilters, geometry, adds=adds[0])
    task = forward_task(geometry)
    if task is None or not task.gradient_pays:
        return None
    return made(PointsFilters, engine, task, wanted, adds)


def made(maker: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The part; None where something that it needs is missing."""
    try:
        return maker(*arguments, **options)
    except Refused:
        return None
    except (ImportError, OSError) as error:
        log.info("Convolutions would be faster with numba (pip install netc[cpu]): %s", error)
        return None
