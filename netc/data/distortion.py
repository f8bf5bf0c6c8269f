"""SSD's random changes of images: colours (`distort_param`), quality (`noise_param`), and a larger canvas
(`expand_param`).

Images are in OpenCV's layout: H x W, or H x W x C with channels BGR; 8 bits a channel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from netc.data.annotation import AnnotatedImage
from netc.data.image import decode_image
from netc.data.read_flags import IMREAD_UNCHANGED
from netc.data.source import Origin
from netc.proto import netc_pb2 as pb

Random = np.random.Generator

BLUR = (7, 1.5)  # size and standard deviation of gauss_blur
CONTRAST_LIMIT = 4.0  # of clahe
GREYS = np.arange(256)
POSTERIZE_STEP = 64  # grey levels that become one


class Distorter:
    """Brightness, contrast, saturation and hue, each changed with its probability, in one of two orders; then
    the channels shuffled."""

    def __init__(self, param: pb.DistortionParameter, origin: Origin) -> None:
        """Raises NetcError where a range is empty."""
        for name in ("contrast", "saturation"):
            low, high = getattr(param, f"{name}_lower"), getattr(param, f"{name}_upper")
            if getattr(param, f"{name}_prob") > 0 and not 0 <= low <= high:
                raise origin.error(
                    f"{name}_lower must not be above {name}_upper, nor negative",
                    "transform_param",
                    "distort_param",
                    found=f"{low:g} and {high:g}",
                )
        self._param = param

    def __call__(self, pixels: np.ndarray, random: Random) -> np.ndarray:
        param = self._param
        contrast_first = random.random() > 0.5
        pixels = self._maybe(
            pixels, random, param.brightness_prob, _brighten, _around(param.brightness_delta)
        )
        contrast = (param.contrast_prob, _contrast, (param.contrast_lower, param.contrast_upper))
        if contrast_first:
            pixels = self._maybe(pixels, random, *contrast)
        if pixels.ndim == 3 and pixels.shape[2] == 3:
            saturation = (param.saturation_lower, param.saturation_upper)
            pixels = self._maybe(pixels, random, param.saturation_prob, _saturate, saturation)
            pixels = self._maybe(pixels, random, param.hue_prob, _turn_hue, _around(param.hue_delta))
        if not contrast_first:
            pixels = self._maybe(pixels, random, *contrast)
        if pixels.ndim == 3 and random.random() < param.random_order_prob:
            pixels = np.ascontiguousarray(pixels[..., random.permutation(pixels.shape[2])])
        return pixels

    @staticmethod
    def _maybe(
        pixels: np.ndarray,
        random: Random,
        probability: float,
        change: Callable[[np.ndarray, float], np.ndarray],
        bounds: tuple[float, float],
    ) -> np.ndarray:
        """The change with its probability, by an amount between the bounds."""
        toss, amount = random.random(2)
        return change(pixels, bounds[0] + amount * (bounds[1] - bounds[0])) if toss < probability else pixels


def _around(delta: float) -> tuple[float, float]:
    return -delta, delta


def _linear(pixels: np.ndarray, factor: float, shift: float) -> np.ndarray:
    """pixels * factor + shift, rounded and cut to 8 bits; by a table of the 256 results."""
    if pixels.dtype != np.uint8:
        return np.clip(pixels * factor + shift, 0, 255).astype(pixels.dtype)
    return np.asarray(cv2.LUT(pixels, np.clip(np.rint(GREYS * factor + shift), 0, 255).astype(np.uint8)))


def _brighten(pixels: np.ndarray, shift: float) -> np.ndarray:
    return _linear(pixels, 1, shift)


def _contrast(pixels: np.ndarray, factor: float) -> np.ndarray:
    return _linear(pixels, factor, 0)


def _saturate(pixels: np.ndarray, factor: float) -> np.ndarray:
    hsv = cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV)
    hsv[..., 1] = _linear(hsv[..., 1], factor, 0)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def _turn_hue(pixels: np.ndarray, shift: float) -> np.ndarray:
    hsv = cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV)
    hsv[..., 0] = _linear(hsv[..., 0], 1, shift)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


class Expander:
    """With probability `prob`: the image at a random place of a canvas 1 to `max_expand_ratio` times as wide
    and as high, filled with the mean."""

    def __init__(
        self,
        param: pb.ExpansionParameter,
        fill: np.ndarray,
        emit: pb.EmitConstraint | None,
        origin: Origin,
    ) -> None:
        """fill: the mean of each channel, or one for all."""
        if param.max_expand_ratio < 1:
            raise origin.error(
                "max_expand_ratio must be at least 1",
                "transform_param",
                "expand_param",
                found=param.max_expand_ratio,
            )
        self._param = param
        self._fill = fill
        self._emit = emit

    def __call__(self, image: AnnotatedImage, random: Random) -> AnnotatedImage:
        toss, ratio, above, left = random.random(4)
        ratio = 1 + ratio * (self._param.max_expand_ratio - 1)
        if toss > self._param.prob:
            return image
        height, width = image.size
        high, wide = int(height * ratio), int(width * ratio)
        top, side = int(above * (high - height)), int(left * (wide - width))
        canvas = np.empty((high, wide, *image.pixels.shape[2:]), image.pixels.dtype)
        canvas[...] = self._fill.astype(canvas.dtype) if canvas.ndim == 3 else int(self._fill[0])
        canvas[top : top + height, side : side + width] = image.pixels
        around = np.array([-side / width, -top / height, (wide - side) / width, (high - top) / height])
        return AnnotatedImage(canvas, image.boxes.within(around, self._emit))


def add_noise(pixels: np.ndarray, param: pb.NoiseParameter, random: Random) -> np.ndarray:
    """The image with every change of quality that `noise_param` asks for, in SSD's order.

    Where `prob` is stated the changes are made together with that probability, else always.
    """
    if param.HasField("prob") and random.random() >= param.prob:
        return pixels
    for field, change in CHANGES.items():
        if getattr(param, field):
            pixels = change(pixels, param, random)
    return pixels


def _on_luma(pixels: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A change of the brightness alone."""
    if pixels.ndim == 2:
        return change(pixels)
    planes = list(cv2.split(cv2.cvtColor(pixels, cv2.COLOR_BGR2YCrCb)))
    planes[0] = change(planes[0])
    return cv2.cvtColor(cv2.merge(planes), cv2.COLOR_YCrCb2BGR)


def _decolorize(pixels: np.ndarray, param: Any, random: Random) -> np.ndarray:
    if pixels.ndim == 2:
        return pixels
    return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def _blur(pixels: np.ndarray, param: Any, random: Random) -> np.ndarray:
    size, deviation = BLUR
    return cv2.GaussianBlur(pixels, (size, size), deviation)


def _equalize(pixels: np.ndarray, param: Any, random: Random) -> np.ndarray:
    return _on_luma(pixels, cv2.equalizeHist)


def _equalize_locally(pixels: np.ndarray, param: Any, random: Random) -> np.ndarray:
    return _on_luma(pixels, cv2.createCLAHE(clipLimit=CONTRAST_LIMIT).apply)


def _compress(pixels: np.ndarray, param: Any, random: Random) -> np.ndarray:
    if param.jpeg <= 0:
        return pixels
    _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(param.jpeg)])
    return decode_image(encoded, IMREAD_UNCHANGED)


def _erode(pixels: np.ndarray, param: Any, random: Random) -> np.ndarray:
    return cv2.erode(pixels, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)))


def _posterize(pixels: np.ndarray, param: Any, random: Random) -> np.ndarray:
    return pixels // POSTERIZE_STEP * POSTERIZE_STEP + POSTERIZE_STEP // 2


def _invert(pixels: np.ndarray, param: Any, random: Random) -> np.ndarray:
    return cv2.bitwise_not(pixels)


def _salt_and_pepper(pixels: np.ndarray, param: Any, random: Random) -> np.ndarray:
    """`fraction` of the pixels set to `value`, each drawn with replacement."""
    height, width = pixels.shape[:2]
    count = int(param.saltpepper_param.fraction * height * width)
    values = np.array(list(param.saltpepper_param.value) or [0]).astype(pixels.dtype)
    noisy = pixels.copy()
    places = random.integers(height, size=count), random.integers(width, size=count)
    noisy[places] = values if pixels.ndim == 3 else values[0]
    return noisy


def _to_hsv(pixels: np.ndarray, param: Any, random: Random) -> np.ndarray:
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV) if pixels.ndim == 3 else pixels


def _to_lab(pixels: np.ndarray, param: Any, random: Random) -> np.ndarray:
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2Lab) if pixels.ndim == 3 else pixels


# What each field of noise_param does, in the order in which they are applied.
CHANGES: dict[str, Callable[[np.ndarray, Any, Random], np.ndarray]] = {
    "decolorize": _decolorize,
    "gauss_blur": _blur,
    "hist_eq": _equalize,
    "clahe": _equalize_locally,
    "jpeg": _compress,
    "erode": _erode,
    "posterize": _posterize,
    "inverse": _invert,
    "saltpepper": _salt_and_pepper,
    "convert_to_hsv": _to_hsv,
    "convert_to_lab": _to_lab,
}
