"""1 x 1 filters with a stride read some cells of an image only: gathered, they are an image of its own.

oneDNN's convolutions are two to three times slower with a stride than on the cells that it leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from netc.backends.cpu.chain import in_sequence
from netc.backends.cpu.geometry import Geometry
from netc.backends.form import Run
from netc.layer import Array, Scratch
from netc.layer.base import count

CELLS: Final = "gathered cells"
CELL_GRADIENTS: Final = "gradients of the gathered cells"


class Sampling:
    """The cells of a geometry's bottom, channels last, that its filters read."""

    def __init__(self, geometry: Geometry) -> None:
        images, channels = geometry.bottom[:2]
        self.stride = geometry.stride
        self.shape = (images, channels, *geometry.top[2:])
        self.geometry = replace(geometry, bottom=self.shape, stride=(1, 1))

    @classmethod
    def of(cls, geometry: Geometry) -> Sampling | None:
        """None where the filters read all cells, or more than one at a time."""
        single = len(geometry.bottom) == len(geometry.weight) == 4 and count(geometry.weight[2:]) == 1
        strided = single and max(geometry.stride) > 1 and not any((*geometry.before, *geometry.behind))
        return cls(geometry) if strided else None

    def workspace(self, *names: str) -> dict[str, Scratch]:
        """Memory for these arrays of the size of the cells."""
        return {name: Scratch((count(self.shape),), np.float32) for name in names}

    def gather(
        self, arrays: Mapping[str, Array], workspace: Mapping[str, Array]
    ) -> tuple[dict[str, Array], Run]:
        """The arrays with the cells in the place of the bottom, and what copies them there."""
        cells = self._image(workspace[CELLS])
        return {**arrays, "bottom": cells}, partial(np.copyto, cells, self._read(arrays["bottom"]))

    def scatter(
        self, arrays: Mapping[str, Array], workspace: Mapping[str, Array]
    ) -> tuple[dict[str, Array], Run]:
        """The arrays with the cells' gradients in the place of the bottom's, and what copies them there."""
        cells, bottom = self._image(workspace[CELL_GRADIENTS]), arrays["bottom gradient"]
        runs = [partial(bottom.fill, 0), partial(np.copyto, self._read(bottom), cells)]
        return {**arrays, "bottom gradient": cells}, in_sequence(runs)

    def _image(self, memory: Array) -> Array:
        images, channels, height, width = self.shape
        return memory[: count(self.shape)].reshape(images, height, width, channels).transpose(0, 3, 1, 2)

    def _read(self, image: Array) -> Array:
        """The cells of an image that the filters read."""
        return image[:, :, :: self.stride[0], :: self.stride[1]][:, :, : self.shape[2], : self.shape[3]]
