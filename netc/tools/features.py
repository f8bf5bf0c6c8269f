"""Keeps what a net makes of its data: the features of every item, in a database or an HDF5 file."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from netc.data.writer import DatabaseWriter, check_target, writing_database
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.atomic import replacing

log = logging.getLogger(__name__)

DATABASES: Final = ("lmdb", "leveldb")
KINDS: Final = (*DATABASES, "hdf5")
LOGGED_ITEMS: Final = 1000  # as often as Caffe says how far it is

Take = Callable[[np.ndarray], None]


def extract_features(
    net: Net, blobs: Sequence[str], targets: Sequence[str], batches: int, kind: str
) -> dict[str, int]:
    """Runs `batches` batches and writes each blob's rows to its target; the number of items of each blob.

    In a database item i has the key `%010d` and is a Datum without a label (it reads as 0) that holds the
    values as float_data, C x H x W as far as the blob has those axes: as Caffe writes it. In an HDF5 file
    all items are one data set, named as the blob. Targets appear only when they are whole. Raises NetcError.
    """
    for blob in blobs:
        if blob not in net.blobs:
            raise NetcError(f"the net has no blob {blob!r}", expected=", ".join(net.blob_names))
    for target in targets:
        _check_free(target, kind)
    counts = dict.fromkeys(blobs, 0)
    with contextlib.ExitStack() as stack:
        takers = [
            stack.enter_context(_writing(target, kind, blob))
            for blob, target in zip(blobs, targets, strict=True)
        ]
        for _ in range(batches):
            net.forward()
            for blob, take in zip(blobs, takers, strict=True):
                data = net.blobs[blob].data
                take(data if data.ndim else data.reshape(1))
                before, counts[blob] = counts[blob], counts[blob] + (len(data) if data.ndim else 1)
                if before // LOGGED_ITEMS != counts[blob] // LOGGED_ITEMS:
                    log.info(
                        "Extracted features of %d query images for feature blob %s",
                        counts[blob],
                        blob,
                        extra={"source": "extract_features.cpp:163"},
                    )
    return counts


def _check_free(target: str, kind: str) -> None:
    if kind in DATABASES:
        check_target(target, kind, overwrite=False)
    elif Path(target).exists():
        raise NetcError(f"{target} already exists", remedy="remove it, or name another file")


@contextlib.contextmanager
def _writing(target: str, kind: str, blob: str) -> Any:
    """Yields what takes the rows of one batch after another."""
    if kind in DATABASES:
        with writing_database(target, kind) as writer:
            yield _DatumRows(writer)
        return
    with replacing(target) as temporary, h5py.File(temporary, "w") as file:
        yield _DatasetRows(file, blob)


class _DatumRows:
    def __init__(self, writer: DatabaseWriter) -> None:
        self.writer = writer
        self.count = 0

    def __call__(self, data: np.ndarray) -> None:
        channels, height, width = (*data.shape[1:], 1, 1, 1)[:3]
        if data.ndim > 4:
            width = int(np.prod(data.shape[3:]))
        for row in data.reshape(len(data), -1):
            datum = pb.Datum(channels=channels, height=height, width=width)
            datum.float_data.extend(row.tolist())
            self.writer.put(b"%010d" % self.count, datum.SerializeToString())
            self.count += 1


class _DatasetRows:
    def __init__(self, file: h5py.File, name: str) -> None:
        self.file = file
        self.name = name
        self.dataset: Any = None

    def __call__(self, data: np.ndarray) -> None:
        if self.dataset is None:
            limits = (None, *data.shape[1:])
            self.dataset = self.file.create_dataset(self.name, data=data, maxshape=limits, chunks=True)
            return
        if data.shape[1:] != self.dataset.shape[1:]:
            raise NetcError(
                "the features of one data set must have one shape",
                blob=self.name,
                expected=list(self.dataset.shape[1:]),
                found=list(data.shape[1:]),
            )
        rows = len(self.dataset)
        self.dataset.resize(rows + len(data), axis=0)
        self.dataset[rows:] = data
