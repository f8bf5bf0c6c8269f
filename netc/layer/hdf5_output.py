"""HDF5Output writes what it reads to a file."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from netc.layer.base import Arity, Array, Buffers, Closable, Layer, Shape
from netc.layer.registry import register


class _Writer(Closable):
    """The file of one layer, closed with its net."""

    def __init__(self, path: str) -> None:
        from netc.data.hdf5_output import Hdf5Output as File  # only now: it loads the HDF5 library

        self._file = File(path)
        self.append = self._file.append

    def close(self) -> None:
        self._file.close()


@register
class HDF5Output(Layer):
    """Writes its bottoms into the data sets `data` and `label` of `file_name`, each as N x C x H x W.

    Caffe can write one forward pass; here later ones add their rows. The file holds the first pass at once,
    and all of them when the net is closed or dropped.
    """

    type = "HDF5Output"
    options_field = "hdf5_output_param"
    bottoms = Arity(2)
    tops = Arity(0)
    differentiable = False
    backward_bottoms = ()
    decides_on_host = True

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        if not self.options.file_name:
            raise self.error("hdf5_output_param has no file_name", "file_name", remedy="name the file")
        for name, shape in zip(self.spec.bottom, bottoms, strict=True):
            if len(shape) > 4:
                raise self.error(
                    "HDF5Output writes at most 4 axes", blob=name, expected="N x C x H x W", found=list(shape)
                )
        items = [_four_axes(shape)[0] for shape in bottoms]
        if items[0] != items[1]:
            raise self.error(
                "data and label differ in the number of items", expected=items[0], found=items[1]
            )
        return []

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        if "writer" not in self.kept:
            self.kept["writer"] = _Writer(self.options.file_name)
        self.kept["writer"].append(*(_host(x).reshape(_four_axes(x.shape)) for x in b.bottoms))

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        """Nothing: it is no part of any loss."""


def _four_axes(shape: Shape) -> Shape:
    return (*shape, *(1,) * (4 - len(shape)))


def _host(array: Array) -> np.ndarray:
    """The array in the CPU's memory."""
    return array if isinstance(array, np.ndarray) else array.get()
