"""The result files of a detector, as the benchmarks want them: VOC, COCO and ILSVRC."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netc.data.image_sizes import NamedSize, read_image_sizes
from netc.data.label_map import read_label_map
from netc.data.resizing import Resizer, to_pixels
from netc.data.source import Origin
from netc.schema.atomic import replacing, write_error

log = logging.getLogger(__name__)

NEEDED = ("output_directory", "label_map_file", "name_size_file")


@dataclass(frozen=True)
class Detection:
    """One box that was found, its corner and size in pixels of the original image."""

    image: str
    label: int
    name: str
    score: float
    left: float
    top: float
    width: float
    height: float

    @property
    def corners(self) -> str:
        """Left, top, right and bottom, cut to whole pixels one by one, as SSD writes them."""
        left, top, width, height = map(int, (self.left, self.top, self.width, self.height))
        return f"{left} {top} {left + width} {top + height}"


def _voc(found: Sequence[Detection], names: Sequence[str]) -> dict[str, str]:
    """A file for each class: image, score, corners."""
    lines: dict[str, list[str]] = {name: [] for name in names}
    for one in found:
        lines[one.name].append(f"{one.image} {one.score:g} {one.corners}\n")
    return {f"{name}.txt": "".join(of_class) for name, of_class in lines.items()}


def _ilsvrc(found: Sequence[Detection], names: Sequence[str]) -> dict[str, str]:
    """One file: image, label, score, corners."""
    return {".txt": "".join(f"{one.image} {one.label} {one.score:g} {one.corners}\n" for one in found)}


def _coco(found: Sequence[Detection], names: Sequence[str]) -> dict[str, str]:
    """One list of objects; names that are numbers are written as numbers."""
    rows = [
        {
            "image_id": _number(one.image),
            "category_id": _number(one.name),
            "bbox": [one.left, one.top, one.width, one.height],
            "score": one.score,
        }
        for one in found
    ]
    return {".json": json.dumps(rows, indent=1) + "\n"}


def _number(text: str) -> Any:
    return int(text) if text.isdigit() else text


# By `output_format`: what follows the prefix in the names of the files, and what they hold.
FORMATS: dict[str, Callable[[Sequence[Detection], Sequence[str]], dict[str, str]]] = {
    "VOC": _voc,
    "COCO": _coco,
    "ILSVRC": _ilsvrc,
}


class DetectionFiles:
    """Gathers what is found in a test set, and writes it once its last image has been seen; then begins
    again."""

    def __init__(self, param: Any, background: int, origin: Origin, *field: str) -> None:
        """param: a SaveOutputParameter with all that is NEEDED; field: where it stands in its layer, for
        messages. Raises NetcError where a file cannot be read or the folder cannot be made."""
        if param.output_format not in FORMATS:
            raise origin.error(
                "unknown output_format",
                *field,
                "output_format",
                expected=", ".join(FORMATS),
                found=param.output_format or "none",
            )
        self._origin, self._field = origin, field
        self._format = FORMATS[param.output_format]
        self._prefix = os.path.join(param.output_directory, param.output_name_prefix)
        self._names = read_label_map(param.label_map_file, origin, *field, "label_map_file")
        self._classes = [name for label, name in self._names.items() if label != background]
        self._images = self._read_sizes(param)
        self._resizer = None
        if param.HasField("resize_param"):
            self._resizer = Resizer(param.resize_param, origin, *field, "resize_param")
        self._seen = 0
        self._found: list[Detection] = []
        try:
            os.makedirs(param.output_directory, exist_ok=True)
        except OSError as error:
            raise write_error(param.output_directory, error) from error

    def _read_sizes(self, param: Any) -> list[NamedSize]:
        images = read_image_sizes(param.name_size_file)
        wanted = param.num_test_image if param.HasField("num_test_image") else len(images)
        if not 0 < wanted <= len(images):
            raise self._origin.error(
                "num_test_image does not fit name_size_file",
                *self._field,
                "num_test_image",
                expected=f"1 to {len(images)}, the images of {param.name_size_file}",
                found=wanted,
            )
        return images[:wanted]

    def add(self, rows: Sequence[Sequence[float]], images: int) -> None:
        """The rows of DetectionOutput for a batch of so many images."""
        by_image: list[list[Sequence[float]]] = [[] for _ in range(images)]
        for row in rows:
            if row[1] >= 0:
                by_image[int(row[0])].append(row)
        for found in by_image:
            self._add_image(self._images[self._seen], found)
            self._seen += 1
            if self._seen == len(self._images):
                self._write()
                self._seen, self._found = 0, []

    def _add_image(self, image: NamedSize, rows: list[Sequence[float]]) -> None:
        if not rows:
            return
        table = np.array(rows)
        boxes = np.round(_corner_and_size(to_pixels(table[:, 3:], image.size, self._resizer)), 2)
        for row, box in zip(rows, boxes.tolist(), strict=True):
            label = int(row[1])
            if label not in self._names:
                raise self._origin.error(
                    f"label {label} is not in the label map", *self._field, "label_map_file", found=label
                )
            self._found.append(Detection(image.name, label, self._names[label], row[2], *box))

    def _write(self) -> None:
        for ending, text in self._format(self._found, self._classes).items():
            path = self._prefix + ending
            try:
                with replacing(path) as temporary:
                    temporary.write_text(text, encoding="utf-8")
            except OSError as error:
                raise write_error(path, error) from error
        log.info("%s: wrote %d detections to %s*", self._origin.name, len(self._found), self._prefix)


def _corner_and_size(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
