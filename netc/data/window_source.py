"""The WindowData layer's source: windows of images, drawn at random, a share of them around objects."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from netc.data.bad_records import BadRecord, BadRecords, Undecodable, fill_gaps
from netc.data.draws import generator
from netc.data.image import decode_image, planes, resize
from netc.data.image_list import file_bytes
from netc.data.prefetch import ArrayPool, Batch
from netc.data.raw_images import RawImages
from netc.data.read_flags import IMREAD_COLOR
from netc.data.source import Origin, Shape
from netc.data.transform import Transformer
from netc.data.window_file import read_window_file
from netc.proto import netc_pb2 as pb

log = logging.getLogger(__name__)

FIELD: Final = "window_data_param"
CROP_MODES: Final = ("warp", "square")


@dataclass(frozen=True)
class Drawn:
    """A window that a batch shows: its image's path, its corners (included), its class, whether mirrored."""

    path: str
    corners: tuple[int, int, int, int]  # x1, y1, x2, y2
    label: float
    mirrored: bool


@dataclass(frozen=True)
class Placement:
    """Where a window lands: the part of the image to take, the size to warp it to, its place in the crop."""

    corners: tuple[int, int, int, int]
    size: tuple[int, int]  # height, width
    top: int
    left: int


class WindowFeed:
    """Windows for fine-tuning a detector, as R-CNN does. (Girshick et al., 2014)

    A window counts as foreground from an overlap of fg_threshold on, as background (class 0) below
    bg_threshold. A batch holds floor(batch_size * fg_fraction) foreground windows behind its background ones.
    Each is warped to crop_size x crop_size, with `context_pad` pixels of what is around it (as `square`: of
    the square around it); what lies outside the image is 0 after the mean is subtracted. As in Caffe, scale
    is window_data_param's; crop_size, mirror and the mean are transform_param's. Positions count batches.
    """

    raw: RawImages | None = None

    def __init__(
        self, spec: pb.LayerParameter, phase: int, seed: int, origin: Origin, *, rank: int = 0, ranks: int = 1
    ) -> None:
        """Raises NetcError where the file cannot be read, or the layer's options make no sense."""
        param = spec.window_data_param
        self._param = param
        self._origin = origin
        self._seed = seed
        self._first, self._step = rank, ranks
        self._crop: int = spec.transform_param.crop_size
        self._mirror: bool = spec.transform_param.mirror
        self._square = param.crop_mode == "square"
        self._scale = np.float32(param.scale)
        self._check(spec)
        self._mean = self._mean_of_crop(Transformer(spec.transform_param, phase, seed, origin))
        self._files: dict[str, np.ndarray] = {}
        self._read_windows()
        self.bad_records = BadRecords(origin, param.source, len(self._paths))
        self.shapes: tuple[Shape, ...] | None = (
            (param.batch_size, 3, self._crop, self._crop),
            (param.batch_size,),
        )

    def _check(self, spec: pb.LayerParameter) -> None:
        param, error = self._param, self._origin.error
        if param.batch_size < 1:
            raise error("batch_size must be at least 1", FIELD, "batch_size")
        if self._crop < 1:
            raise error(
                "windows are warped to crop_size, which is not set",
                "transform_param",
                "crop_size",
                remedy="state transform_param { crop_size: 227 }; one in window_data_param has no effect",
            )
        if self._crop <= 2 * param.context_pad:
            raise error(
                "context_pad leaves nothing of the window",
                FIELD,
                "context_pad",
                expected=f"less than half of crop_size, {self._crop}",
                found=param.context_pad,
            )
        if param.crop_mode not in CROP_MODES:
            raise error(
                "unknown crop_mode",
                FIELD,
                "crop_mode",
                expected=" or ".join(CROP_MODES),
                found=param.crop_mode,
            )
        if spec.transform_param.scale != 1:
            log.warning(
                "%s: transform_param.scale has no effect in WindowData; state window_data_param.scale",
                self._origin.locate("transform_param", "scale") or spec.name,
            )

    def _mean_of_crop(self, transformer: Transformer) -> np.ndarray:
        """What is subtracted: the middle of the mean image, or values (C, 1, 1), or 0."""
        values = transformer.mean_values
        if len(values) not in (0, 1, 3):
            raise self._origin.error(
                "mean_value does not fit the channels",
                "transform_param",
                "mean_value",
                expected="1 or 3 values",
                found=len(values),
            )
        mean = transformer.mean
        if mean is None:
            return values[:, None, None] if len(values) else np.zeros((1, 1, 1), np.float32)
        channels, height, width = mean.shape
        offset = (width - self._crop) // 2
        if channels != 3 or offset < 0 or offset + self._crop > height:
            raise self._origin.error(
                "the mean image does not cover the crop",
                "transform_param",
                "mean_file",
                expected=f"3 x {self._crop} x {self._crop} or larger, and square",
                found=f"{channels} x {height} x {width}",
            )
        return mean[:, offset : offset + self._crop, offset : offset + self._crop]

    def _read_windows(self) -> None:
        """Reads the file, and sorts its windows into foreground and background."""
        param = self._param
        found = read_window_file(param.source, self._origin, (FIELD, "source"))
        self._paths = found.paths
        self._images, self._windows = found.images, found.windows
        labels, overlaps = self._windows[:, 0], self._windows[:, 1]
        is_foreground = overlaps >= np.float32(param.fg_threshold)
        self._foreground = np.flatnonzero(is_foreground)
        self._background = np.flatnonzero(~is_foreground & (overlaps < np.float32(param.bg_threshold)))
        if (labels[self._foreground] < 1).any():
            wrong = self._foreground[labels[self._foreground] < 1][0]
            raise self._origin.error(
                f"a foreground window of {self._paths[self._images[wrong]]} has no class",
                FIELD,
                "source",
                expected="1 or more; 0 is the background",
                found=labels[wrong],
            )
        labels[self._background] = 0
        self._wanted = int(np.float32(param.batch_size) * np.float32(param.fg_fraction))
        for kind, windows, wanted in (
            ("foreground", self._foreground, self._wanted),
            ("background", self._background, param.batch_size - self._wanted),
        ):
            if wanted > 0 and not len(windows):
                raise self._origin.error(
                    f"the window file {param.source} has no {kind} window",
                    FIELD,
                    "source",
                    remedy="check fg_threshold, bg_threshold and fg_fraction",
                )
        log.info(
            "Number of images: %d; foreground windows: %d; background windows: %d",
            len(self._paths),
            len(self._foreground),
            len(self._background),
        )

    def first(self) -> int:
        return self._first

    def read(self, position: int) -> tuple[list[Drawn], int]:
        draws = generator(self._seed, f"{self._origin.name}/windows", position)
        rows: list[int] = []
        for windows, wanted in (
            (self._background, self._param.batch_size - self._wanted),
            (self._foreground, self._wanted),
        ):
            rows += windows[draws.integers(len(windows), size=wanted)].tolist() if wanted else []
        mirrored = draws.random(len(rows)) < 0.5
        return [
            self._drawn(row, self._mirror and bool(coin)) for row, coin in zip(rows, mirrored, strict=True)
        ], position + self._step

    def _drawn(self, row: int, mirrored: bool) -> Drawn:
        label, _, *corners = self._windows[row].tolist()
        x1, y1, x2, y2 = (int(corner) for corner in corners)
        return Drawn(self._paths[self._images[row]], (x1, y1, x2, y2), label, mirrored)

    def build(self, material: Sequence[Drawn], pool: ArrayPool) -> Batch:
        assert self.shapes is not None
        data, labels = pool.take(self.shapes[0]), pool.take(self.shapes[1])
        shown: list[tuple[np.ndarray, float] | None] = []
        bad = []
        for i, drawn in enumerate(material):
            try:
                self._show(drawn, data[i])
                shown.append((data[i], drawn.label))
            except Undecodable as error:
                shown.append(None)
                bad.append(BadRecord(drawn.path, str(error)))
        filled = fill_gaps(shown)
        if filled is None:
            raise self._origin.error(
                f"no image of a whole batch can be read; the first is {bad[0].key}: {bad[0].why}",
                FIELD,
                "source",
                remedy=f"check that the paths start at root_folder ({self._param.root_folder or 'not set'})",
            )
        for i, (pixels, label) in enumerate(filled):
            labels[i] = label
            if shown[i] is None:
                data[i] = pixels
        return Batch([data, labels], bad)

    def _show(self, drawn: Drawn, out: np.ndarray) -> None:
        """Writes a window into `out` (3, crop, crop). Raises Undecodable where its image cannot be read."""
        image = decode_image(self._file(drawn.path), IMREAD_COLOR)
        place = self._place(drawn, image.shape[0], image.shape[1])
        x1, y1, x2, y2 = place.corners
        patch = resize(image[y1 : y2 + 1, x1 : x2 + 1], place.size)
        if drawn.mirrored:
            patch = patch[:, ::-1]
        height, width = place.size
        target = np.s_[:, place.top : place.top + height, place.left : place.left + width]
        out[...] = 0
        mean = self._mean[target] if self._mean.shape[1] > 1 else self._mean
        out[target] = (planes(patch) - mean) * self._scale

    def _file(self, path: str) -> np.ndarray:
        """The bytes of an image file; with cache_images they stay in memory."""
        kept = self._files.get(path)
        if kept is None:
            kept = file_bytes(self._param.root_folder + path)
            if self._param.cache_images:
                self._files[path] = kept
        return kept

    def _place(self, drawn: Drawn, height: int, width: int) -> Placement:
        """Where a window of an image lands. Raises NetcError where it does not lie in the image."""
        crop, pad = self._crop, self._param.context_pad
        if pad or self._square:
            place = with_context(drawn.corners, height, width, crop, pad, self._square, drawn.mirrored)
        else:
            place = Placement(drawn.corners, (crop, crop), 0, 0)
        x1, y1, x2, y2 = place.corners
        if not (0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height):
            raise self._origin.error(
                f"a window does not lie in its image {drawn.path}",
                FIELD,
                "source",
                expected=f"x1 <= x2 < {width} and y1 <= y2 < {height}",
                found=" ".join(map(str, drawn.corners)),
            )
        return place

    def interrupt(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Nothing is open between batches."""


def with_context(
    corners: tuple[int, int, int, int],
    height: int,
    width: int,
    crop: int,
    pad: int,
    square: bool,
    mirrored: bool,
) -> Placement:
    """Widens a window so that `pad` pixels of its surroundings come out on every side of the crop, and clips
    it to the image (height, width).

    square: first widens it to the square around it. As Caffe, in fp32, and with corners that make the widened
    window a pixel larger than its size.
    """
    real = np.float32
    x1, y1, x2, y2 = corners
    grown = real(crop) / real(crop - 2 * pad)
    half_height, half_width = real((y2 - y1 + 1) / 2), real((x2 - x1 + 1) / 2)
    centre_x, centre_y = real(x1) + half_width, real(y1) + half_height
    if square:
        half_height = half_width = max(half_height, half_width)
    x1, x2 = _round(centre_x - half_width * grown), _round(centre_x + half_width * grown)
    y1, y2 = _round(centre_y - half_height * grown), _round(centre_y + half_height * grown)
    scale_x, scale_y = real(crop) / real(x2 - x1 + 1), real(crop) / real(y2 - y1 + 1)
    outside_left, outside_right = max(0, -x1), max(0, x2 - width + 1)
    outside_top, outside_bottom = max(0, -y1), max(0, y2 - height + 1)
    x1, x2, y1, y2 = x1 + outside_left, x2 - outside_right, y1 + outside_top, y2 - outside_bottom
    left = _round(real(outside_right if mirrored else outside_left) * scale_x)
    top = _round(real(outside_top) * scale_y)
    size = (
        max(1, min(_round(real(y2 - y1 + 1) * scale_y), crop - top)),
        max(1, min(_round(real(x2 - x1 + 1) * scale_x), crop - left)),
    )
    return Placement((x1, y1, x2, y2), size, top, left)


def _round(value: np.floating) -> int:
    """To the nearest whole number, halves away from zero, as C's `round`."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), value))
