"""The mean image of a database, in Caffe's binaryproto form."""

from __future__ import annotations

import numpy as np

from netc.data.database import find_database
from netc.data.datum import decode_block
from netc.data.records import RecordBlock, RecordReader, read_all
from netc.data.source import Origin, Progress
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.schema.atomic import replacing

BLOCK_RECORDS = 64


def compute_image_mean(
    database: str, out: str | None = None, *, progress: Progress | None = None
) -> list[float]:
    """The mean of each channel of a database's images (for `mean_value`); the mean image is written to `out`.

    The file is a BlobProto 1 x C x H x W. progress(done, total) is called now and then. Raises NetcError for
    records that do not decode or differ in shape.
    """
    mean = mean_image(database, progress)
    if out is not None:
        _write(mean, out)
    return [float(value) for value in mean.mean(axis=(1, 2), dtype=np.float64)]


def mean_image(database: str, progress: Progress | None = None) -> np.ndarray:
    """The mean of all images of a database: float32, C x H x W.

    Sums are exact and are divided in fp32; Caffe adds in fp32, which is exact up to 65,793 images and drifts
    beyond.
    """
    origin = Origin()
    reader = RecordReader(find_database(database, None, origin), origin)
    try:
        total, done = reader.count(), 0
        sums: np.ndarray | None = None
        for block in read_all(reader, BLOCK_RECORDS):
            stack = _stack(database, block, sums)
            added = stack.sum(axis=0, dtype=np.uint32 if stack.dtype == np.uint8 else np.float64)
            sums = added.astype(np.float64) if sums is None else sums + added
            done += len(block)
            block.release()
            if progress:
                progress(done, total)
    finally:
        reader.close()
    assert sums is not None
    return sums.astype(np.float32) / np.float32(total)


def _stack(database: str, block: RecordBlock, sums: np.ndarray | None) -> np.ndarray:
    """The images of a block, N x C x H x W, all of the shape of `sums` (of the first, if that is None)."""
    images, _, bad = decode_block(block)
    if bad:
        raise NetcError(
            f"record {bad[0].key} of {database} does not decode: {bad[0].why}",
            remedy="make the database again",
        )
    expected = images[0].shape if sums is None else sums.shape
    for i in range(len(images)):
        if images[i].shape != expected:
            raise _mixed(database, block.key(i), expected, images[i].shape)
    return images if isinstance(images, np.ndarray) else np.stack(images)


def _write(mean: np.ndarray, out: str) -> None:
    channels, height, width = mean.shape
    blob = pb.BlobProto(num=1, channels=channels, height=height, width=width, data=mean.ravel())
    with replacing(out) as path, open(path, "wb") as file:
        file.write(blob.SerializeToString())


def _mixed(database: str, key: str, expected: tuple[int, ...], found: tuple[int, ...]) -> NetcError:
    return NetcError(
        f"the images of {database} differ in shape, so that they have no mean; see {key}",
        expected="x".join(map(str, expected)),
        found="x".join(map(str, found)),
        remedy="convert with -resize_height and -resize_width, or use mean_value",
    )
