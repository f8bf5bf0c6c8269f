"""Says where a net sees objects: reads what DetectionOutput gives, and thins out overlapping windows."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from netc.errors import Location, NetcError
from netc.runtime import Net
from netc.schema.atomic import replacing
from netc.tools.image_input import Preparation, image_input, run_batches

ROW: Final = 7  # image, label, score, xmin, ymin, xmax, ymax: relative to the image's width and height
WINDOW_COLUMNS: Final = ("filename", "ymin", "xmin", "ymax", "xmax")
COLOURS: Final = (
    (60, 60, 230),
    (60, 180, 60),
    (220, 120, 30),
    (30, 180, 220),
    (200, 60, 200),
    (160, 160, 30),
)


@dataclass(frozen=True)
class Detection:
    """One object: its class and score, and its box in pixels of the image."""

    label: int
    name: str
    score: float
    xmin: float
    ymin: float
    xmax: float
    ymax: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        return self.xmin, self.ymin, self.xmax, self.ymax


def detects(net: Net) -> bool:
    """Whether the net ends in a DetectionOutput layer, and so finds its own boxes."""
    return any(value.producer.type == "DetectionOutput" for value in net.graph.outputs)


def detect(
    net: Net, paths: Sequence[str], preparation: Preparation, threshold: float, names: Sequence[str] | None
) -> Iterator[tuple[str, list[Detection]]]:
    """What a net with DetectionOutput finds in each image file with a score of `threshold` or more."""
    name, _ = image_input(net)
    output = next(value.name for value in net.graph.outputs if value.producer.type == "DetectionOutput")
    for path in paths:
        image = preparation.load(path)
        rows = next(run_batches(net, name, list(preparation.crops(image)), 1))[output].reshape(-1, ROW)
        height, width = image.shape[:2]
        found = [
            Detection(int(label), name_of(int(label), names), float(score), *box)
            for _, label, score, *edges in rows
            for box in [[float(edge * size) for edge, size in zip(edges, (width, height) * 2, strict=True)]]
            if label >= 0 and score >= threshold
        ]
        yield path, found


def name_of(label: int, names: Sequence[str] | None) -> str:
    """A class's name, or its number where there is none."""
    return names[label] if names and label < len(names) else str(label)


def read_windows(path: str) -> dict[str, list[tuple[float, ...]]]:
    """The windows (ymin, xmin, ymax, xmax) of each image, from a CSV with a heading. Raises NetcError."""
    windows: dict[str, list[tuple[float, ...]]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not set(WINDOW_COLUMNS) <= set(reader.fieldnames or ()):
                found = ", ".join(reader.fieldnames or ()) or "nothing"
                raise NetcError(
                    "the windows have no heading", at=path, expected=", ".join(WINDOW_COLUMNS), found=found
                )
            for row in reader:
                try:
                    window = tuple(float(row[name]) for name in WINDOW_COLUMNS[1:])
                except (TypeError, ValueError):
                    at = Location(path, reader.line_num)
                    raise NetcError(
                        "a window is four numbers", at=at, found=", ".join(map(str, row.values()))
                    ) from None
                windows.setdefault(row["filename"], []).append(window)
    except (OSError, UnicodeDecodeError) as error:
        raise NetcError(f"cannot read the windows: {error}", at=path) from error
    return windows


def suppress(detections: Sequence[Detection], overlap: float) -> list[Detection]:
    """The detections, best first, without those that overlap a better one of their class by more than
    `overlap` (intersection over union): greedy non-maximum suppression."""
    kept: list[Detection] = []
    for each in sorted(detections, key=lambda detection: -detection.score):
        if all(each.label != other.label or _overlap(each.box, other.box) <= overlap for other in kept):
            kept.append(each)
    return kept


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(areas) - both)


def draw_detections(source: str, detections: Sequence[Detection], target: Path) -> None:
    """Writes the image with a box and a name for each detection. Raises NetcError."""
    image = cv2.imdecode(np.fromfile(source, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise NetcError("cannot read the image", at=source)
    thickness = max(1, round(min(image.shape[:2]) / 200))
    for each in detections:
        colour = COLOURS[each.label % len(COLOURS)]
        start, end = (round(each.xmin), round(each.ymin)), (round(each.xmax), round(each.ymax))
        cv2.rectangle(image, start, end, colour, thickness)
        text, below = f"{each.name} {each.score:.2f}", (start[0] + 2, max(12, start[1] - 4))
        cv2.putText(image, text, below, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
    done, encoded = cv2.imencode(target.suffix, image)
    if not done:
        raise NetcError(f"{target.suffix} pictures cannot be written", at=str(target))
    with replacing(target) as temporary:
        temporary.write_bytes(encoded.tobytes())
