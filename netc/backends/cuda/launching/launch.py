"""Launches that are made ready once and run again and again, with the tables that their kernels read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from netc.backends.cuda.compilation import Kernel, Variant
from netc.backends.cuda.device import Argument, Device, Grid, Memory
from netc.backends.form import Run


@dataclass(frozen=True)
class Launch:
    """A kernel with all that it is given; `keeps`: what must live as long."""

    device: Device
    kernel: Kernel
    grid: Grid
    arguments: Sequence[Argument]
    keeps: Sequence[object] = ()

    @classmethod
    def of(
        cls, device: Device, variant: Variant, grid: Grid, arguments: Sequence[Argument], *keeps: object
    ) -> Launch:
        """Of a variant's threads over `grid` blocks."""
        return cls(device, device.load(variant), grid, tuple(arguments), keeps)

    def __call__(self) -> None:
        self.device.launch(self.kernel, self.grid, (self.kernel.variant.threads,), self.arguments)


@dataclass(frozen=True)
class Table:
    """Numbers made on the host that kernels read; its memory is freed with the last use of `array`."""

    memory: Memory
    array: object

    @classmethod
    def of(cls, device: Device, values: np.ndarray, name: str) -> Table:
        array = device.allocate_array(values.nbytes, name)
        memory = device.memory_of(array, name)
        device.upload(memory, values)
        return cls(memory, array)


@overload
def in_order(*runs: Run) -> Run: ...


@overload
def in_order(*runs: Run | None) -> Run | None: ...


def in_order(*runs: Run | None) -> Run | None:
    """Several pieces of work as one, where some may be none; None where all are."""
    given = [run for run in runs if run is not None]
    if len(given) < 2:
        return given[0] if given else None

    def run_all() -> None:
        for run in given:
            run()

    return run_all
