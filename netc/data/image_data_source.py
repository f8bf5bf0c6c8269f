"""The ImageData layer's source: image files named in a list."""

from __future__ import annotations

from typing import Any

import numpy as np

from netc.data.bad_records import BadRecord, BadRecords, Undecodable, fill_gaps
from netc.data.draws import below, permutation
from netc.data.image_batch import ImageBatcher
from netc.data.image_list import ListedImage, full_path, load_image, read_list
from netc.data.pixel_room import PixelRoom
from netc.data.prefetch import ArrayPool, Batch
from netc.data.raw_images import RawImages
from netc.data.read_flags import IMREAD_COLOR, IMREAD_GRAYSCALE
from netc.data.source import Origin, Shape
from netc.data.transform import SMALL_IMAGE, Transformer
from netc.proto import netc_pb2 as pb

FIELD = "image_data_param"


class ImageListFeed:
    """Positions count the lines of the endless sequence of epochs; with `shuffle` each has its own order."""

    def __init__(
        self, spec: pb.LayerParameter, phase: int, seed: int, origin: Origin, *, rank: int = 0, ranks: int = 1
    ) -> None:
        """Raises NetcError where the list or its first images cannot be read, or do not fit the layer."""
        param = spec.image_data_param
        self._check(param, origin)
        self._room = PixelRoom()
        self._root: str = param.root_folder
        self._size = (param.new_height, param.new_width) if param.new_height else None
        self._flag = IMREAD_COLOR if param.is_color else IMREAD_GRAYSCALE
        self._batch_size: int = param.batch_size
        self._step = ranks
        self._shuffle_name = f"{spec.name}/shuffle" if param.shuffle else None
        self._seed = seed
        self._images = self._read_list(param, origin)
        skip = below(seed, f"{spec.name}/rand_skip", param.rand_skip)
        if skip >= len(self._images):
            raise origin.error(
                "rand_skip skips the whole list",
                FIELD,
                "rand_skip",
                expected=f"at most {len(self._images)}",
                found=skip,
            )
        self._first = skip + rank
        self._epoch = -1
        self._order = np.arange(len(self._images))
        self.bad_records = BadRecords(origin, param.source, len(self._images))
        self.raw: RawImages | None = None
        self.shapes: tuple[Shape, ...] | None = self._prepare(spec, phase, origin)

    def _read_list(self, param: pb.ImageDataParameter, origin: Origin) -> list[ListedImage]:
        return read_list(param.source, origin, (FIELD, "source"))

    def _prepare(self, spec: pb.LayerParameter, phase: int, origin: Origin) -> tuple[Shape, ...] | None:
        """Reads the first images that can be read; the shapes of every batch, None where they vary."""
        transformer = Transformer(spec.transform_param, phase, self._seed, origin)
        self._batcher = self._probe(transformer, len(spec.top), origin)
        self.raw = self._batcher.raw
        return self._batcher.shapes

    @staticmethod
    def _check(param: pb.ImageDataParameter, origin: Origin) -> None:
        if param.batch_size < 1:
            raise origin.error("batch_size must be at least 1", FIELD, "batch_size")
        if bool(param.new_height) != bool(param.new_width):
            given = "new_height" if param.new_height else "new_width"
            raise origin.error(
                "new_height and new_width must be set together",
                FIELD,
                given,
                found=f"only {given}",
                remedy="set both",
            )

    def _probe(self, transformer: Transformer, tops: int, origin: Origin) -> ImageBatcher:
        (_, listed), _ = self.read(self._first)
        why = ""
        for item in listed:
            try:
                image = self._load(item)
            except Undecodable as error:
                why = why or f"{item.path}: {error}"
                continue
            fixed = self._size is not None or transformer.fixed_size
            first = (image.shape, item.path)
            return ImageBatcher(
                transformer, self._batch_size, max(1, tops), fixed=fixed, first=first, origin=origin
            )
        raise self._nothing_decodes(why)

    def first(self) -> int:
        return self._first

    def read(self, position: int) -> tuple[Any, int]:
        after = position + self._batch_size * self._step
        return (position, [self._at(at) for at in range(position, after, self._step)]), after

    def _at(self, position: int) -> ListedImage:
        epoch, index = divmod(position, len(self._images))
        if self._shuffle_name and epoch != self._epoch:
            self._order = permutation(self._seed, self._shuffle_name, epoch, len(self._images))
            self._epoch = epoch
        return self._images[self._order[index]]

    def build(self, material: tuple[int, list[ListedImage]], pool: ArrayPool) -> Batch:
        position, listed = material
        self._room.clear()
        loaded: list[tuple[np.ndarray, float] | None] = []
        bad = []
        for item in listed:
            try:
                loaded.append((self._load(item), item.labels[0]))
            except Undecodable as error:
                loaded.append(None)
                bad.append(BadRecord(item.path, str(error)))
        filled = fill_gaps(loaded)
        if filled is None:
            raise self._nothing_decodes(f"{bad[0].key}: {bad[0].why}")
        loose = [image for image, _ in filled]
        together = loose[0].size <= SMALL_IMAGE and len({image.shape for image in loose}) == 1
        images = np.stack(loose) if together else loose
        labels = np.array([label for _, label in filled])
        batch = self._batcher.build(images, labels, lambda i: listed[i].path, position, pool)
        batch.bad = bad
        return batch

    def _load(self, item: ListedImage) -> np.ndarray:
        return load_image(full_path(self._root, item.path), self._flag, self._size, self._room)

    def _nothing_decodes(self, why: str) -> Exception:
        return self.bad_records.origin.error(
            f"no image of a whole batch can be read; the first is {why}",
            FIELD,
            "source",
            remedy=f"check that the paths in the list start at root_folder ({self._root or 'not set'})",
        )

    def interrupt(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Nothing is open between batches."""
