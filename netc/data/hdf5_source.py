"""The HDF5Data layer's source: rows of datasets in the files of a list, read in chunks."""

from __future__ import annotations

import bisect
import difflib
import os
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from netc.data.bad_records import BadRecords
from netc.data.draws import permutation
from netc.data.prefetch import ArrayPool, Batch
from netc.data.raw_images import RawImages
from netc.data.source import Origin, Shape
from netc.errors import NetcError, raise_errors
from netc.proto import netc_pb2 as pb
from netc.schema.hdf5 import probe_hdf5

FIELD = "hdf5_data_param"
LIST = "the list of HDF5 files"
LIST_REMEDY = "source names a text file with one .h5 path a line"
CHUNK_BYTES = 32 << 20  # read at once where the order is the file's own
SHUFFLED_CHUNK_BYTES = 1 << 30  # ... and where it is not: a file up to this size is shuffled as a whole
PROBED_BYTES = 256 << 20  # up to this size a file is first read by another process, which damage may kill
# What libhdf5 raises through h5py for missing, foreign and damaged files.
HDF5_ERRORS = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    MemoryError,
    OverflowError,
)


@dataclass(frozen=True)
class Chunk:
    """Rows [start, stop) of a file that are read, and with `shuffle` permuted, together."""

    file: str
    start: int
    stop: int


class Hdf5Feed:
    """Positions count the rows of the endless sequence of epochs.

    With `shuffle`, as in Caffe, each epoch permutes the files and the rows of each file. Rows of a file that
    is larger than SHUFFLED_CHUNK_BYTES (as float32, over all tops) are permuted in windows of that size, in
    permuted order.
    """

    raw: RawImages | None = None

    def __init__(
        self, spec: pb.LayerParameter, phase: int, seed: int, origin: Origin, *, rank: int = 0, ranks: int = 1
    ) -> None:
        """Raises NetcError where a file cannot be read, lacks a dataset, or does not fit the others."""
        param = spec.hdf5_data_param
        if spec.HasField("transform_param"):
            raise origin.error(
                "HDF5Data does not transform its data", "transform_param", remedy="remove transform_param"
            )
        if param.batch_size < 1:
            raise origin.error("batch_size is not set", FIELD, remedy="set hdf5_data_param { batch_size: N }")
        self._origin = origin
        self._tops = list(spec.top)
        self._batch_size: int = param.batch_size
        self._rank, self._step = rank, ranks
        self._seed = seed
        self._shuffle: bool = param.shuffle
        files = _read_sources(param.source, origin)
        rows, self._row_shapes = self._inspect(files)
        self._files = [self._chunks(file, count) for file, count in zip(files, rows, strict=True)]
        self._rows_per_epoch = sum(rows)
        if self._rows_per_epoch == 0:
            raise origin.error(f"the files of {param.source} have no rows", FIELD, "source")
        self._epoch = -1
        self._ordered = -1  # the chunk of the epoch whose rows `_rows` orders
        self._loaded: tuple[Chunk, list[np.ndarray]] | None = None
        self.bad_records = BadRecords(origin, param.source, None)  # always empty: a damaged file is an error
        self.shapes: tuple[Shape, ...] | None = tuple(
            (self._batch_size, *shape) for shape in self._row_shapes
        )

    def first(self) -> int:
        return self._rank

    def read(self, position: int) -> tuple[Any, int]:
        parts = []
        filled = 0
        while filled < self._batch_size:
            chunk, order, offset = self._locate(position + filled * self._step)
            rows = order[offset :: self._step][: self._batch_size - filled]
            parts.append((self._load(chunk), rows))
            filled += len(rows)
        return parts, position + self._batch_size * self._step

    def build(self, material: list[tuple[list[np.ndarray], np.ndarray]], pool: ArrayPool) -> Batch:
        batch = [pool.take((self._batch_size, *shape)) for shape in self._row_shapes]
        filled = 0
        for values, rows in material:
            for target, value in zip(batch, values, strict=True):
                np.take(value, rows, axis=0, out=target[filled : filled + len(rows)])
            filled += len(rows)
        return Batch(batch)

    def interrupt(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        self._loaded = None

    def _chunks(self, file: str, rows: int) -> list[Chunk]:
        row_bytes = sum(4 * int(np.prod(shape)) for shape in self._row_shapes)
        size = max(1, (SHUFFLED_CHUNK_BYTES if self._shuffle else CHUNK_BYTES) // max(1, row_bytes))
        return [Chunk(file, start, min(start + size, rows)) for start in range(0, rows, size)]

    def _locate(self, position: int) -> tuple[Chunk, np.ndarray, int]:
        """The chunk that holds the row at `position`, the order of its rows, and which of them that is."""
        epoch, row = divmod(position, self._rows_per_epoch)
        if epoch != self._epoch:
            self._begin_epoch(epoch)
        k = bisect.bisect_right(self._ends, row)
        chunk = self._order[k]
        rows = chunk.stop - chunk.start
        if self._ordered != k:
            self._rows = self._permute("rows", epoch * len(self._order) + k, rows)
            self._ordered = k
        return chunk, self._rows, row - (self._ends[k] - rows)

    def _begin_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._ordered = -1
        self._order: list[Chunk] = []
        for i in self._permute("files", epoch, len(self._files)):
            chunks = self._files[i]
            windows = self._permute("windows", epoch * len(self._files) + int(i), len(chunks))
            self._order += [chunks[w] for w in windows]
        self._ends: list[int] = np.cumsum([chunk.stop - chunk.start for chunk in self._order]).tolist()

    def _permute(self, what: str, index: int, length: int) -> np.ndarray:
        if not self._shuffle:
            return np.arange(length)
        return permutation(self._seed, f"{self._origin.name}/{what}", index, length)

    def _load(self, chunk: Chunk) -> list[np.ndarray]:
        """The rows of a chunk for each top; only one chunk is kept."""
        if self._loaded and self._loaded[0] == chunk:
            return self._loaded[1]
        self._loaded = None  # makes room before the next is read
        values = [np.empty((chunk.stop - chunk.start, *shape), np.float32) for shape in self._row_shapes]
        try:
            with h5py.File(chunk.file, "r") as file:
                for top, target in zip(self._tops, values, strict=True):
                    if target.size:
                        file[top].read_direct(target, np.s_[chunk.start : chunk.stop])
        except HDF5_ERRORS as error:
            raise self._unreadable(chunk.file, error) from error
        self._loaded = (chunk, values)
        return values

    def _inspect(self, files: list[str]) -> tuple[list[int], list[Shape]]:
        """The rows of each file, and the shape of a row of each top. Reports all files that are wrong."""
        rows: list[int] = []
        shapes: list[Shape] | None = None
        errors: list[NetcError] = []
        for path in files:
            try:
                if os.path.exists(path) and os.path.getsize(path) <= PROBED_BYTES:
                    probe_hdf5(path)
                with h5py.File(path, "r") as file:
                    found = [self._dataset_shape(file, path, top) for top in self._tops]
                self._check_rows(path, found)
                shapes = shapes or [shape[1:] for shape in found]
                self._check_shapes(path, files[0], shapes, found)
                rows.append(found[0][0])
            except NetcError as error:
                errors.append(error)
            except HDF5_ERRORS as error:
                errors.append(self._unreadable(path, error))
        raise_errors(errors)
        assert shapes is not None
        return rows, shapes

    def _dataset_shape(self, file: h5py.File, path: str, top: str) -> Shape:
        if top not in file:
            near = difflib.get_close_matches(top, list(file), n=1)
            raise self._origin.error(
                f"{path} has no dataset {top}",
                "top",
                blob=top,
                expected=f"one for each top: {', '.join(self._tops)}",
                found=", ".join(file) or "no datasets",
                remedy=f"did you mean {near[0]}? rename the top or the dataset"
                if near
                else "rename the top or the dataset",
            )
        dataset = file[top]
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiub" or not dataset.shape:
            kind = f"{dataset.dtype}, {dataset.ndim} axes" if isinstance(dataset, h5py.Dataset) else "a group"
            raise self._origin.error(
                f"{top} in {path} cannot be a top",
                blob=top,
                expected="a dataset of numbers with at least one axis",
                found=kind,
            )
        return tuple(dataset.shape)

    def _check_rows(self, path: str, found: list[Shape]) -> None:
        if len({shape[0] for shape in found}) > 1:
            raise self._origin.error(
                f"the datasets of {path} differ in their number of rows",
                expected="the same first axis",
                found=", ".join(f"{top}: {shape[0]}" for top, shape in zip(self._tops, found, strict=True)),
            )

    def _check_shapes(self, path: str, first: str, shapes: list[Shape], found: list[Shape]) -> None:
        for top, expected, shape in zip(self._tops, shapes, found, strict=True):
            if shape[1:] != expected:
                raise self._origin.error(
                    f"{top} in {path} does not have the shape of the one in {first}",
                    blob=top,
                    expected=f"N x {expected}",
                    found=f"N x {shape[1:]}",
                )

    def _unreadable(self, path: str, error: Exception) -> NetcError:
        return self._origin.error(
            f"the HDF5 file {path} cannot be read",
            FIELD,
            "source",
            found=str(error) or type(error).__name__,
            remedy="check the path, which starts at the working directory, or make the file again",
        )


def _read_sources(source: str, origin: Origin) -> list[str]:
    """The files that a list names, one a line."""
    try:
        with open(source, encoding="utf-8") as file:
            files = [line.strip() for line in file if line.strip()]
    except OSError as error:
        raise origin.unreadable(LIST, source, error, FIELD, "source", remedy=LIST_REMEDY) from error
    except UnicodeDecodeError as error:
        raise origin.error(
            f"{LIST} {source} cannot be read: it is not text", FIELD, "source", remedy=LIST_REMEDY
        ) from error
    if not files:
        raise origin.error(f"{LIST} {source} is empty", FIELD, "source")
    return files
