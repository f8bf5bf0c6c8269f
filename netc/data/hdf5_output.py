"""The HDF5Output layer's file: a data set of data and one of labels, a row for every item."""

from __future__ import annotations

import os
import shutil
import weakref
from contextlib import ExitStack, suppress
from pathlib import Path

import h5py
import numpy as np

from netc.errors import NetcError
from netc.schema.atomic import replacing, write_error

DATASETS = ("data", "label")


class Hdf5Output:
    """Appends rows to a file that is whole whenever it is there.

    The rows go into a file beside it. That takes its name when this is closed (or dropped); before that,
    copies do, after the first batch and whenever the batches have doubled.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._batches = 0
        self._shapes: list[tuple[int, ...]] = []
        self._growing: Path | None = None
        self._stack = ExitStack()
        self._finalizer = weakref.finalize(self, self._stack.close)

    def append(self, *arrays: np.ndarray) -> None:
        """Adds the rows of data and labels (each N x C x H x W). Raises NetcError where it cannot."""
        shapes = [array.shape[1:] for array in arrays]
        if self._batches and shapes != self._shapes:
            raise NetcError(
                "the rows changed their shape from one forward to the next",
                at=self._path,
                expected=self._shapes,
                found=shapes,
                remedy="give items of one size",
            )
        self._shapes = shapes
        try:
            if self._growing is None:
                self._growing = self._stack.enter_context(replacing(self._path))
            with h5py.File(self._growing, "a") as file:
                for name, array in zip(DATASETS, arrays, strict=True):
                    _extend(file, name, array)
            self._batches += 1
            if self._batches & (self._batches - 1) == 0:
                with replacing(self._path) as copy:
                    shutil.copyfile(self._growing, copy)
        except BaseException as error:
            with suppress(BaseException):  # the unfinished file goes, the last whole one stays
                self._stack.__exit__(type(error), error, error.__traceback__)
            if isinstance(error, OSError):
                raise write_error(self._path, error) from error
            raise

    def close(self) -> None:
        """Gives the file its name; may be called twice."""
        self._finalizer()


def _extend(file: h5py.File, name: str, array: np.ndarray) -> None:
    """Adds rows to a data set; makes it where there is none."""
    if name not in file:
        shape = tuple(max(1, n) for n in array.shape)
        file.create_dataset(name, data=array, maxshape=(None, *array.shape[1:]), chunks=shape)
        return
    dataset = file[name]
    rows = len(dataset)
    dataset.resize(rows + len(array), axis=0)
    dataset[rows:] = array
