"""The AnnotatedData layer's source: images with boxes from a database, and SSD's transformations of both."""

from __future__ import annotations

import logging
import os
from typing import Any

import cv2
import numpy as np

from netc.data.annotation import Annotated, AnnotatedImage, Boxes, parse_annotated
from netc.data.bad_records import BadRecord, BadRecords, Undecodable, fill_gaps
from netc.data.box_sampling import BoxSampler
from netc.data.database import find_database
from netc.data.distortion import Distorter, Expander, add_noise
from netc.data.draws import below, generator
from netc.data.image import planes
from netc.data.image_resizer import ImageResizer
from netc.data.label_map import read_label_map
from netc.data.prefetch import ArrayPool, Batch
from netc.data.raw_images import RawImages
from netc.data.records import RecordBlock, RecordReader
from netc.data.source import Origin, Shape
from netc.data.transform import FIELD as TRANSFORM
from netc.data.transform import Transformer
from netc.proto import netc_pb2 as pb

log = logging.getLogger(__name__)

FIELD = "annotated_data_param"
ROW = 8  # image, class, instance, xmin, ymin, xmax, ymax, difficult


class BoxTransformer:
    """What SSD does to an image and its boxes: distorts colours, expands, samples a part, resizes, adds
    noise, crops, subtracts the mean, scales and mirrors, each where `transform_param` or a batch sampler asks
    for it.

    Every draw depends on (seed, layer, position of the record) alone. Other than in SSD, an image is not
    compressed as JPEG again between two steps, and raw datums are resized as well.
    """

    def __init__(self, spec: pb.LayerParameter, phase: int, seed: int, origin: Origin) -> None:
        """Raises NetcError where fields contradict each other or the mean file cannot be read."""
        param = spec.transform_param
        self._param = param
        self._train = phase == pb.TRAIN
        self._seed = seed
        self._origin = origin
        self._crop = _crop_size(param, origin)
        whole = pb.TransformationParameter()
        whole.CopyFrom(param)
        whole.ClearField("crop_size")
        self._pixels = Transformer(whole, phase, seed, origin)
        self.read_flag = self._pixels.read_flag
        self.resizer = None
        if param.HasField("resize_param"):
            self.resizer = ImageResizer(param.resize_param, origin, TRANSFORM, "resize_param")
        self._emit = param.emit_constraint if param.HasField("emit_constraint") else None
        self._distort = Distorter(param.distort_param, origin) if param.HasField("distort_param") else None
        self._expand = None
        if param.HasField("expand_param"):
            self._expand = Expander(param.expand_param, self._fill(), self._emit, origin)
        self._sampler = BoxSampler(spec.annotated_data_param.batch_sampler, origin)

    def _fill(self) -> np.ndarray:
        """The mean of every channel, or of all."""
        if self._pixels.mean is not None:
            return self._pixels.mean.mean(axis=(1, 2))
        return self._pixels.mean_values if len(self._pixels.mean_values) else np.zeros(1)

    def apply(self, image: AnnotatedImage, position: int, key: str) -> tuple[np.ndarray, Boxes]:
        """The transformed image (C x H x W, float32) of the record at a position, and its boxes."""
        random = generator(self._seed, f"{self._origin.name}/annotated", position)
        if self._distort is not None:
            image = AnnotatedImage(self._distort(image.pixels, random), image.boxes)
        if self._expand is not None:
            image = self._expand(image, random)
        part = self._sampler.draw(image.boxes.corners, random)
        if part is not None:
            image = image.part(part, self._emit)
        return self._finish(image, random, key)

    def _finish(
        self, image: AnnotatedImage, random: np.random.Generator, key: str
    ) -> tuple[np.ndarray, Boxes]:
        pixels, corners = image.pixels, image.boxes.corners
        if self.resizer is not None:
            pixels = self.resizer.image(pixels, float(random.random()))
            corners = self.resizer.boxes(corners, image.size)
        if self._param.HasField("noise_param"):
            pixels = add_noise(pixels, self._param.noise_param, random)
        source = planes(pixels)
        self._pixels.output_shape(source.shape, key)
        crop, (top, left, high, wide) = self._crop_box(source.shape[1:], random, key)
        mirrored = self._param.mirror and bool(random.random() < 0.5)
        out = np.empty((len(source), high, wide), np.float32)
        self._pixels.apply_at(source, out, top, left, mirrored)

        boxes = image.boxes.moved(corners).within(crop, self._emit)
        boxes = boxes.mirrored() if mirrored else boxes
        if self.resizer is not None:
            boxes = boxes.moved(self.resizer.rescaled(boxes.corners, image.size, crop))
        return out, boxes

    def _crop_box(
        self, size: tuple[int, int], random: np.random.Generator, key: str
    ) -> tuple[np.ndarray, tuple[int, int, int, int]]:
        """Where the crop lies: as a box in shares of the image, and as top, left, height and width."""
        height, width = size
        high, wide = self._crop or size
        if high > height or wide > width:
            raise self._origin.error(
                f"the crop is larger than the image {key}",
                TRANSFORM,
                "crop_size" if self._param.crop_size else "crop_h",
                expected=f"at most {height} x {width}, the image's height and width",
                found=f"{high} x {wide}",
                remedy="choose a smaller crop, or resize the images with resize_param",
            )
        draws = random.random(2)
        top, left = (height - high) // 2, (width - wide) // 2
        if self._train:
            top, left = int(draws[0] * (height - high + 1)), int(draws[1] * (width - wide + 1))
        edges = np.array([left / width, top / height, (left + wide) / width, (top + high) / height])
        return edges, (top, left, high, wide)


def _crop_size(param: pb.TransformationParameter, origin: Origin) -> tuple[int, int] | None:
    """Height and width of the crop, from crop_size or from crop_h and crop_w."""
    if param.crop_size and (param.crop_h or param.crop_w):
        raise origin.error("crop_size and crop_h, crop_w cannot both be set", TRANSFORM, "crop_size")
    if bool(param.crop_h) != bool(param.crop_w):
        raise origin.error("crop_h and crop_w go together", TRANSFORM, "crop_h" if param.crop_h else "crop_w")
    high, wide = param.crop_size or param.crop_h, param.crop_size or param.crop_w
    return (high, wide) if high else None


class AnnotatedFeed:
    """Positions count the records of the endless sequence of epochs, as in `DatabaseFeed`."""

    shapes: tuple[Shape, ...] | None = None  # the number of boxes varies
    raw: RawImages | None = None

    def __init__(
        self, spec: pb.LayerParameter, phase: int, seed: int, origin: Origin, *, rank: int = 0, ranks: int = 1
    ) -> None:
        """Raises NetcError where the database cannot be read, or its images do not fit the layer."""
        param = spec.data_param
        if param.batch_size < 1:
            raise origin.error(
                "batch_size is not set", "data_param", remedy="set data_param { batch_size: N }"
            )
        self._origin = origin
        self._batch_size: int = param.batch_size
        self._with_labels = len(spec.top) > 1
        self._step = ranks
        self._first = below(seed, f"{spec.name}/rand_skip", param.rand_skip) + rank
        self._transformer = BoxTransformer(spec, phase, seed, origin)
        resizer = self._transformer.resizer
        if resizer is not None and resizer.keeps_shape and param.batch_size > 1:
            raise origin.error(
                "FIT_SMALL_SIZE gives images of different sizes",
                "data_param",
                "batch_size",
                expected=1,
                found=param.batch_size,
                remedy="use batch_size: 1, or resize_mode: WARP or FIT_LARGE_SIZE_AND_PAD",
            )
        self._labels = self._label_map(spec.annotated_data_param)
        named = pb.DataParameter.DB.Name(param.backend).lower() if param.HasField("backend") else None
        self._reader = RecordReader(find_database(param.source, named, origin), origin)
        try:
            self.bad_records = BadRecords(origin, param.source, self._reader.entries)
            self._with_boxes = self._first_record().typed or spec.annotated_data_param.HasField("anno_type")
        except BaseException:
            self._reader.close()
            raise

    def _label_map(self, param: pb.AnnotatedDataParameter) -> dict[int, str]:
        """The classes that the boxes may have; none where there is no label map."""
        if not param.label_map_file:
            return {}
        if not os.path.exists(param.label_map_file):
            log.warning(
                "%s: there is no label map %s; labels are not checked",
                self._origin.name,
                param.label_map_file,
            )
            return {}
        return read_label_map(param.label_map_file, self._origin, FIELD, "label_map_file")

    def _first_record(self) -> Annotated:
        """The first record of the first batch that can be decoded."""
        block = self._reader.read(self._first, self._batch_size, self._step, ahead=False)
        return self._decode(block)[0][0]

    def first(self) -> int:
        return self._first

    def read(self, position: int) -> tuple[Any, int]:
        block = self._reader.read(position, self._batch_size, self._step)
        return (position, block), position + self._batch_size * self._step

    def build(self, material: tuple[int, RecordBlock], pool: ArrayPool) -> Batch:
        position, block = material
        records, bad = self._decode(block)
        images: list[np.ndarray] = []
        boxes: list[Boxes] = []
        for i, record in enumerate(records):
            if self._with_boxes and self._with_labels:
                self._check(record, block.key(i))
            image, found = self._transform(record, position + i * self._step, block.key(i))
            if images and image.shape != images[0].shape:
                raise self._mixed(images[0].shape, image.shape, block.key(i))
            images.append(image)
            boxes.append(found)
        data = pool.take((len(images), *images[0].shape))
        np.stack(images, out=data)
        arrays = [data]
        if self._with_labels:
            labels = _rows(boxes) if self._with_boxes else _labels(records)
            arrays.append(pool.take(labels.shape))
            arrays[1][...] = labels
        block.release()
        return Batch(arrays, bad)

    def _transform(self, record: Annotated, position: int, key: str) -> tuple[np.ndarray, Boxes]:
        try:
            return self._transformer.apply(record.image, position, key)
        except cv2.error as error:
            raise self._origin.error(
                f"the image {key} cannot be transformed", TRANSFORM, found=f"OpenCV: {error.err or error}"
            ) from error

    def _decode(self, block: RecordBlock) -> tuple[list[Annotated], list[BadRecord]]:
        """The records of a block, and those that do not decode, whose places neighbours take."""
        decoded: list[Annotated | None] = []
        bad = []
        for i in range(len(block)):
            try:
                decoded.append(parse_annotated(block[i].tobytes(), self._transformer.read_flag))
            except Undecodable as error:
                decoded.append(None)
                bad.append(BadRecord(block.key(i), str(error)))
        filled = fill_gaps(decoded)
        if filled is None:
            raise self._origin.error(
                f"no record of a whole batch can be decoded; the first is {bad[0].key}: {bad[0].why}",
                "data_param",
                "source",
                expected="AnnotatedDatum messages",
                remedy="make the database with SSD's convert_annoset, or use a Data layer for plain Datums",
            )
        return filled, bad

    def _check(self, record: Annotated, key: str) -> None:
        """Raises NetcError where a record has boxes of classes that the label map does not know."""
        boxes = record.image.boxes
        unknown = [label for label in boxes.label.tolist() if self._labels and label not in self._labels]
        if unknown:
            raise self._origin.error(
                f"the label {unknown[0]} of a box of {key} is not in the label map",
                FIELD,
                "label_map_file",
                expected=", ".join(f"{label} ({name})" for label, name in sorted(self._labels.items())),
                found=unknown[0],
            )

    def _mixed(self, expected: Shape, found: Shape, key: str) -> Exception:
        return self._origin.error(
            f"the image {key} does not have the shape of the others",
            expected=f"{'x'.join(map(str, expected))} (channels x height x width) after transform_param",
            found="x".join(map(str, found)),
            remedy="resize the images with resize_param { resize_mode: WARP }, or use batch_size: 1",
        )

    def interrupt(self) -> None:
        self._reader.interrupt()

    def close(self) -> None:
        self._reader.close()


def _rows(boxes: list[Boxes]) -> np.ndarray:
    """The label top: a row for every box of the batch, (1, 1, n, 8); one row of -1 where there is none."""
    rows = [
        np.column_stack([np.full(len(found), i), found.label, found.instance, found.corners, found.difficult])
        for i, found in enumerate(boxes)
        if len(found)
    ]
    return np.concatenate(rows)[None, None] if rows else np.full((1, 1, 1, ROW), -1.0)


def _labels(records: list[Annotated]) -> np.ndarray:
    """The label top of records without annotations, as SSD shapes it: (N, 1, 1, 1)."""
    return np.array([record.label for record in records], np.float32).reshape(-1, 1, 1, 1)
