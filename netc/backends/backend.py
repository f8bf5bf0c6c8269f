"""What a backend offers: memory, arrays over it, forms that run nodes, updates, and the recording of work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Array, Shape


class Backend(ABC):
    """One place where nets run. `xp` is the array module of its memory: numpy, or cupy for a GPU."""

    name: str
    xp: ModuleType

    @property
    @abstractmethod
    def forms(self) -> Mapping[tuple[str, ...], Maker]:
        """The fast forms by the layer types of the chain that they run."""

    @abstractmethod
    def form(self, maker: Maker, nodes: Sequence[Node], mode: Mode) -> Form | None:
        """What a maker makes of a chain; None where it does not fit."""

    @abstractmethod
    def allocate(self, nbytes: int, name: str = "memory") -> Array:
        """Zeroed bytes, aligned for vector loads. Raises NetcError where there is less memory."""

    def array(self, memory: Array, offset: int, shape: Shape, dtype: Any) -> Array:
        """A view of memory from a byte offset on."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return memory[offset : offset + nbytes].view(dtype).reshape(shape)

    @abstractmethod
    def read(self, array: Array) -> np.ndarray:
        """An array's values on the host: itself where it lies there, a copy elsewhere."""

    @abstractmethod
    def write(self, array: Array, values: np.ndarray) -> None:
        """Copies values from the host into an array."""

    def record(self, runs: Sequence[Run]) -> Sequence[Run]:
        """The same work as fewer runs, where the backend can record it once and replay it."""
        return runs
