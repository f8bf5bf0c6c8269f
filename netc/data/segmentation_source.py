"""The ImageSegData layer's source: images and images of labels named in a list."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from netc.data.bad_records import BadRecord, Undecodable, fill_gaps
from netc.data.image import decode_image
from netc.data.image_data_source import FIELD, ImageListFeed
from netc.data.image_list import MOST_ERRORS_SHOWN, ListedImage, file_bytes, full_path, read_lines
from netc.data.prefetch import ArrayPool, Batch
from netc.data.read_flags import IMREAD_GRAYSCALE
from netc.data.segmentation_transform import SegmentationTransformer
from netc.data.source import Origin, Shape
from netc.errors import Location, NetcError, raise_errors
from netc.proto import netc_pb2 as pb


@dataclass(frozen=True)
class ListedSegmentation(ListedImage):
    """One line of a list: an image, and its labels' file where every pixel has its own."""

    label_path: str = ""


class SegmentationFeed(ImageListFeed):
    """Lines `image labels`, by `label_type`: PIXEL names a gray image of the same size, IMAGE (the default) a
    whole number for every pixel, NONE nothing, and every pixel is `ignore_label`.

    `new_height` and `new_width` resize the image bilinearly and the labels to the nearest pixel. Tops: images
    (N, C, h, w), labels (N, 1, h, w), and height and width of each image (N, 1, 1, 2), at most h and w.
    """

    def _read_list(self, param: pb.ImageDataParameter, origin: Origin) -> list[ListedImage]:
        listed: list[ListedImage] = []
        errors: list[NetcError] = []
        kind = pb.ImageDataParameter.LabelType.Name(param.label_type)
        expected = {
            "PIXEL": "the paths of an image and of its labels",
            "IMAGE": "a path and a whole number from 0 to 255",
            "NONE": "a path",
        }[kind]
        for number, line in read_lines(param.source, origin, (FIELD, "source")):
            item = _parse_line(line, kind, param.ignore_label)
            if item:
                listed.append(item)
            elif len(errors) < MOST_ERRORS_SHOWN:
                errors.append(
                    NetcError(
                        f"not a line of an image list with label_type: {kind}",
                        at=Location(param.source, number),
                        expected=expected,
                        found=line,
                        remedy="set label_type to what the list holds: PIXEL, IMAGE or NONE",
                    )
                )
        raise_errors(errors)
        if not listed:
            raise origin.error(f"the image list {param.source} is empty", FIELD, "source")
        return listed

    def _prepare(self, spec: pb.LayerParameter, phase: int, origin: Origin) -> tuple[Shape, ...] | None:
        self._tops = max(1, len(spec.top))
        self._transformer = SegmentationTransformer(
            spec.transform_param, phase, self._seed, origin, spec.image_data_param.ignore_label
        )
        (_, listed), _ = self.read(self._first)
        why = ""
        for item in listed:
            try:
                image, _ = self._load_pair(item)
            except Undecodable as error:
                why = why or f"{item.path}: {error}"
                continue
            shape = self._transformer.output_shape(image.shape)
            fixed = self._transformer.crop is not None or self._size is not None or self._batch_size > 1
            return self._shapes(shape) if fixed else None
        raise self._nothing_decodes(why)

    def _shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """The tops' shapes for images of C, H, W."""
        number = self._batch_size
        return ((number, *shape), (number, 1, *shape[1:]), (number, 1, 1, 2))[: self._tops]

    def build(self, material: tuple[int, list[ListedImage]], pool: ArrayPool) -> Batch:
        position, listed = material
        loaded: list[tuple[np.ndarray, np.ndarray] | None] = []
        bad = []
        for item in listed:
            try:
                loaded.append(self._load_pair(item))
            except Undecodable as error:
                loaded.append(None)
                bad.append(BadRecord(item.path, str(error)))
        filled = fill_gaps(loaded)
        if filled is None:
            raise self._nothing_decodes(f"{bad[0].key}: {bad[0].why}")
        draws = self._transformer.draw(len(filled), position)
        done = [self._transformer.apply(*pair, draw) for pair, draw in zip(filled, draws, strict=True)]
        shapes = self.shapes or self._shapes(done[0][0].shape)
        data, labels = pool.take(shapes[0]), pool.take((len(done), 1, *shapes[0][2:]))
        for i, (pixels, label) in enumerate(done):
            if pixels.shape != shapes[0][1:]:
                raise self._mixed(shapes[0][1:], pixels.shape, listed[i].path)
            data[i], labels[i, 0] = pixels, label
        sizes = [np.minimum(image.shape[:2], shapes[0][2:]) for image, _ in filled]
        return Batch([data, labels, np.array(sizes, np.float32).reshape(-1, 1, 1, 2)][: self._tops], bad)

    def _load_pair(self, item: ListedImage) -> tuple[np.ndarray, np.ndarray]:
        """An image (H x W x C, uint8, BGR) and its labels (H x W, float32). Raises Undecodable."""
        label: np.ndarray
        image = decode_image(file_bytes(full_path(self._root, item.path)), self._flag)
        image = image[:, :, None] if image.ndim == 2 else image
        if isinstance(item, ListedSegmentation) and item.label_path:
            path = full_path(self._root, item.label_path)
            try:
                label = decode_image(file_bytes(path), IMREAD_GRAYSCALE).astype(np.float32)
            except Undecodable as error:
                raise Undecodable(f"its labels {item.label_path}: {error}") from error
            if label.shape != image.shape[:2] and not self._size:
                raise Undecodable(
                    f"it is {image.shape[0]} x {image.shape[1]}, "
                    f"its labels {item.label_path} are {label.shape[0]} x {label.shape[1]}"
                )
        else:
            label = np.full(image.shape[:2], item.labels[0], np.float32)
        if self._size:
            size = (self._size[1], self._size[0])
            resized = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
            image = resized[:, :, None] if resized.ndim == 2 else resized
            label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
        return image, label

    def _mixed(self, expected: Shape, found: Shape, path: str) -> Exception:
        return self.bad_records.origin.error(
            f"the image {path} does not have the shape of the others",
            expected="x".join(map(str, expected)),
            found="x".join(map(str, found)),
            remedy="set crop_size, or new_height and new_width, or use batch_size: 1",
        )


def _parse_line(line: str, kind: str, ignored: int) -> ListedSegmentation | None:
    """The words of a line by label_type; None where they are too few, or no number where one belongs."""
    words = line.split()
    if kind == "NONE":
        return ListedSegmentation(words[0], (ignored,))
    if len(words) < 2:
        return None
    if kind == "PIXEL":
        return ListedSegmentation(words[0], (ignored,), words[1])
    if not words[1].isdecimal() or int(words[1]) > 255:
        return None
    return ListedSegmentation(words[0], (float(words[1]),))
