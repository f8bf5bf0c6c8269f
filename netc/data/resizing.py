"""The sizes that SSD's `resize_param` brings images to, and where their boxes go and come from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from netc.data.boxes import clip, project
from netc.data.source import Origin
from netc.proto import netc_pb2 as pb

PARAM = pb.ResizeParameter
Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class _Fit:
    """Where an image comes to lie: the size of the resized image with its padding, and the part of it that
    the image fills, as a box in shares of it; sizes as fractions, before they are cut to pixels."""

    height: float
    width: float
    box: np.ndarray


class Resizer:
    """Tells to which size images come, and where their boxes go.

    WARP: to height x width. FIT_SMALL_SIZE: its shape kept, so that one side fits and the other is at least
    as long as asked. FIT_LARGE_SIZE_AND_PAD: its shape kept, so that one side fits and the other is padded at
    both ends, by `pad_mode` with `pad_value`. (`ImageResizer` does so to the pixels.)
    """

    def __init__(self, param: pb.ResizeParameter, origin: Origin, *path: str) -> None:
        """path: where the message stands in its layer, for messages. Raises NetcError where it makes no
        sense."""
        self.param = param
        for side in ("height", "width"):
            if getattr(param, side) < 1:
                raise origin.error(f"resize_param has no {side}", *path, remedy="state height and width")

    @property
    def keeps_shape(self) -> bool:
        """Whether images of different shapes come out in different sizes."""
        return self.param.resize_mode == PARAM.FIT_SMALL_SIZE

    def inner_size(self, size: Size) -> Size:
        """The size that an image is resized to before it is padded."""
        height, width = self.param.height, self.param.width
        if self.param.resize_mode == PARAM.WARP:
            return height, width
        aspect, target = np.float32(size[1] / size[0]), np.float32(width / height)
        pads = self.param.resize_mode == PARAM.FIT_LARGE_SIZE_AND_PAD
        if aspect > target if pads else aspect < target:
            return max(1, math.floor(np.float32(width) / aspect)), width
        return height, max(1, math.floor(aspect * np.float32(height)))

    def _fit(self, size: Size) -> _Fit:
        height, width = float(self.param.height), float(self.param.width)
        aspect = size[1] / size[0]
        wide = aspect > width / height
        box = np.array([0.0, 0.0, 1.0, 1.0])
        if self.param.resize_mode == PARAM.FIT_SMALL_SIZE:
            height, width = (height, height * aspect) if wide else (width / aspect, width)
        elif self.param.resize_mode == PARAM.FIT_LARGE_SIZE_AND_PAD:
            if wide:
                edge = (height - width / aspect) / 2 / height
                box = np.array([0.0, edge, 1.0, 1.0 - edge])
            else:
                edge = (width - height * aspect) / 2 / width
                box = np.array([edge, 0.0, 1.0 - edge, 1.0])
        return _Fit(height, width, box)

    def boxes(self, boxes: np.ndarray, size: Size) -> np.ndarray:
        """The boxes (n, 4) of an image of this size, as shares of the resized image."""
        box = self._fit(size).box
        corner, extent = np.tile(box[:2], 2), np.tile(box[2:] - box[:2], 2)
        return corner + clip(np, boxes) * extent

    def rescaled(self, boxes: np.ndarray, size: Size, crop: np.ndarray) -> np.ndarray:
        """Boxes of a crop of the resized image, in units of `height_scale` and `width_scale` pixels where
        those are set (for FIT_SMALL_SIZE), so that boxes of images of different sizes can be compared."""
        units = self._units
        if units is None:
            return boxes
        fit = self._fit(size)
        extent = (crop[2:] - crop[:2]) * [fit.width, fit.height]
        return boxes * np.tile(extent / units, 2)

    @property
    def _units(self) -> np.ndarray | None:
        param = self.param
        if not (self.keeps_shape and param.height_scale and param.width_scale):
            return None
        return np.array([param.width_scale, param.height_scale], float)

    def to_image(self, boxes: np.ndarray, size: Size) -> np.ndarray:
        """Boxes (n, 4) of a resized image as pixels of the image of this size that it was made of."""
        edges = np.array([size[1], size[0]] * 2, float)
        units = self._units
        if units is not None:
            return np.clip(boxes * np.tile(units, 2), 0, edges)
        if self.param.resize_mode == PARAM.FIT_LARGE_SIZE_AND_PAD:
            boxes, _ = project(np, boxes, self._fit(size).box)
        return clip(np, boxes) * edges


def to_pixels(boxes: np.ndarray, size: Size, resizer: Resizer | None) -> np.ndarray:
    """Boxes (n, 4), as shares of what a net saw, as pixels of the image of this size."""
    if resizer is not None:
        return resizer.to_image(boxes, size)
    return clip(np, boxes) * np.array([size[1], size[0]] * 2, float)
