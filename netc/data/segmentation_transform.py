"""What transform_param does to an image and to its labels alike: resize, pad, crop, mirror; mean and scale
are for the image."""

from __future__ import annotations

import cv2
import numpy as np

from netc.data.draws import generator
from netc.data.source import Origin, Shape
from netc.proto import netc_pb2 as pb

FIELD = "transform_param"
CROPS = (("crop_size", "crop_size"), ("crop_h", "crop_w"), ("crop_height", "crop_width"))


class SegmentationTransformer:
    """Resized by one of `scale_factors`, drawn at random; padded below and on the right to the size of the
    crop, with the mean and with the ignored label; cropped, at random in TRAIN, else in the middle; mirrored
    by the toss of a coin; (pixel - mean_value) * scale.

    The crop is `crop_size`, or `crop_h` and `crop_w` (also spelled crop_height and crop_width). The draws for
    a batch depend on (seed, layer, position of the batch) and on nothing else.
    """

    def __init__(
        self, param: pb.TransformationParameter, phase: int, seed: int, origin: Origin, ignored: int
    ) -> None:
        """Raises NetcError where fields contradict each other or do not apply."""
        self._origin = origin
        self._train = phase == pb.TRAIN
        self._seed = seed
        self._ignored = ignored
        self._mirror: bool = param.mirror
        self._scale = np.float32(param.scale)
        self._mean = np.array(param.mean_value, np.float32)
        self._factors = np.array(param.scale_factors, np.float64)
        if param.HasField("mean_file"):
            raise self._error(
                "ImageSegData knows no mean_file", "mean_file", remedy="write mean_value for each channel"
            )
        if any(factor <= 0 for factor in self._factors):
            raise self._error("scale_factors must be more than 0", "scale_factors", found=min(self._factors))
        self.crop = self._read_crop(param)

    def _read_crop(self, param: pb.TransformationParameter) -> tuple[int, int] | None:
        given = [(h, w) for h, w in CROPS if getattr(param, h) or getattr(param, w)]
        if not given:
            if len(self._factors):
                raise self._error(
                    "scale_factors change the size of the images", "scale_factors", remedy="set crop_size"
                )
            return None
        height, width = given[0]
        if len(given) > 1 or not (getattr(param, height) and getattr(param, width)):
            raise self._error(
                "the size of the crop must be given once",
                height if getattr(param, height) else width,
                expected="crop_size, or crop_h and crop_w",
                found=", ".join(name for name in dict.fromkeys(sum(given, ())) if getattr(param, name)),
            )
        return getattr(param, height), getattr(param, width)

    def output_shape(self, image: Shape) -> Shape:
        """C, H, W of what becomes of an image of H, W, C."""
        if len(self._mean) not in (0, 1, image[2]):
            raise self._error(
                "mean_value does not fit the channels of the images",
                "mean_value",
                expected=f"1 or {image[2]} values",
                found=len(self._mean),
            )
        return (image[2], *(self.crop or image[:2]))

    def draw(self, count: int, position: int) -> np.ndarray:
        """Four numbers in [0, 1) for each image of a batch: resize, top, left, mirror."""
        return generator(self._seed, f"{self._origin.name}/transform", position).random((count, 4))

    def apply(self, image: np.ndarray, label: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An image (H x W x C, uint8) as C x h x w (float32), and its labels (H x W, float32) as h x w."""
        if len(self._factors):
            factor = self._factors[int(draws[0] * len(self._factors))]
            size = tuple(max(1, int(n * factor)) for n in (image.shape[1], image.shape[0]))
            resized = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
            image = resized[:, :, None] if resized.ndim == 2 else resized
            label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
        pixels = image.transpose(2, 0, 1).astype(np.float32)
        if len(self._mean):
            pixels -= self._mean[:, None, None]
        pixels *= self._scale
        if self.crop:
            pixels, label = self._cut(pixels, label, draws[1:3])
        if self._mirror and draws[3] < 0.5:
            pixels, label = pixels[..., ::-1], label[:, ::-1]
        return pixels, label

    def _cut(self, pixels: np.ndarray, label: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert self.crop is not None
        missing = [max(0, crop - n) for crop, n in zip(self.crop, label.shape, strict=True)]
        if any(missing):
            border = ((0, missing[0]), (0, missing[1]))
            pixels = np.pad(pixels, ((0, 0), *border))  # the mean, taken off, is 0
            label = np.pad(label, border, constant_values=self._ignored)
        room = [n - crop for crop, n in zip(self.crop, label.shape, strict=True)]
        drawn = zip(room, draws, strict=True)
        top, left = [int(draw * (n + 1)) if self._train else n // 2 for n, draw in drawn]
        inside = (..., slice(top, top + self.crop[0]), slice(left, left + self.crop[1]))
        return pixels[inside], label[inside]

    def _error(self, what: str, field: str, **details: object) -> Exception:
        return self._origin.error(what, FIELD, field, **details)
