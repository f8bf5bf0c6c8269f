"""The Data layer's source: Datums from an LMDB or a LevelDB, in key order, epoch after epoch."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from netc.data.bad_records import BadRecords
from netc.data.database import find_database
from netc.data.datum import decode_block
from netc.data.draws import below
from netc.data.image_batch import ImageBatcher
from netc.data.pixel_room import PixelRoom
from netc.data.prefetch import ArrayPool, Batch
from netc.data.read_flags import IMREAD_COLOR, IMREAD_UNCHANGED
from netc.data.records import RecordBlock, RecordReader
from netc.data.source import Origin, Shape
from netc.data.transform import Transformer
from netc.proto import netc_pb2 as pb

log = logging.getLogger(__name__)

FIELD = "data_param"


class DatabaseFeed:
    """Positions count the records of the endless sequence of epochs."""

    def __init__(
        self, spec: pb.LayerParameter, phase: int, seed: int, origin: Origin, *, rank: int = 0, ranks: int = 1
    ) -> None:
        """rank, ranks: this process reads every ranks-th record from the rank-th on, as Caffe does on several
        GPUs.

        Raises NetcError where the database cannot be read, or its images do not fit the layer.
        """
        param = spec.data_param
        if param.batch_size < 1:
            raise origin.error("batch_size is not set", FIELD, remedy="set data_param { batch_size: N }")
        self._batch_size: int = param.batch_size
        self._step = ranks
        self._first = below(seed, f"{spec.name}/rand_skip", param.rand_skip) + rank
        self._transformer = Transformer(spec.transform_param, phase, seed, origin)
        self._flag = IMREAD_COLOR if param.force_encoded_color else self._transformer.read_flag
        named = pb.DataParameter.DB.Name(param.backend).lower() if param.HasField("backend") else None
        database = find_database(param.source, named, origin)
        self._room = PixelRoom()
        self._reader = RecordReader(database, origin)
        try:
            self.bad_records = BadRecords(origin, param.source, self._reader.entries)
            self._batcher = self._probe(max(1, len(spec.top)), origin)
        except BaseException:
            self._reader.close()
            raise
        self.shapes: tuple[Shape, ...] | None = self._batcher.shapes
        self.raw = self._batcher.raw if self._holds_bytes else None

    def _probe(self, tops: int, origin: Origin) -> ImageBatcher:
        """Takes the shape of the first batch's first image."""
        block = self._reader.read(self._first, self._batch_size, self._step, ahead=False)
        images, _, bad = decode_block(block, self._flag)
        if len(images) == 0:
            raise _nothing_decodes(origin, bad[0].key, bad[0].why)
        if _needless_force(self._flag, block):
            log.warning(
                "%s: force_color and force_gray do nothing to images that are stored raw", origin.name
            )
        self._holds_bytes = images[0].dtype == np.uint8
        fixed = self._transformer.fixed_size and self._flag != IMREAD_UNCHANGED
        first = (images[0].shape, block.key(0))
        return ImageBatcher(
            self._transformer, self._batch_size, tops, fixed=fixed, first=first, origin=origin
        )

    def first(self) -> int:
        return self._first

    def read(self, position: int) -> tuple[Any, int]:
        block = self._reader.read(position, self._batch_size, self._step)
        return (position, block), position + self._batch_size * self._step

    def build(self, material: tuple[int, RecordBlock], pool: ArrayPool) -> Batch:
        position, block = material
        self._room.clear()
        images, labels, bad = decode_block(block, self._flag, self._room)
        if len(images) == 0:
            raise _nothing_decodes(self.bad_records.origin, bad[0].key, bad[0].why)
        batch = self._batcher.build(images, labels, block.key, position, pool)
        batch.bad = bad
        block.release()
        return batch

    def interrupt(self) -> None:
        self._reader.interrupt()

    def close(self) -> None:
        self._reader.close()


def _needless_force(flag: int, block: RecordBlock) -> bool:
    return flag != IMREAD_UNCHANGED and not pb.Datum.FromString(block[0].tobytes()).encoded


def _nothing_decodes(origin: Origin, key: str, why: str) -> Exception:
    return origin.error(
        f"no record of a whole batch can be decoded; the first is {key}: {why}",
        FIELD,
        "source",
        expected="Datum messages",
        remedy="make the database again with netc convert_imageset",
    )
