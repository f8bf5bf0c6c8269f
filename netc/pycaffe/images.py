"""Images as float arrays, H x W x C with red first: loading, resizing, and the ten crops of a prediction."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np

from netc.errors import NetcError

Array = np.ndarray
LUMINANCE = np.array([0.2125, 0.7154, 0.0721])  # ITU-R BT.709, of red, green and blue


def load_image(filename: str | os.PathLike[str], color: bool = True) -> Array:
    """An image file as float32, H x W x 3 with red first, values from 0 to 1; H x W x 1 without `color`.

    Transparency is dropped in colour, and laid on white in grey; 16-bit images keep their depth. The numbers
    are those of pycaffe, which reads with scikit-image; pixels of a JPEG may differ by a grey level or two
    between decoders. Raises NetcError for a file that is no image.
    """
    path = os.fspath(filename)
    try:
        stored = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error) as error:
        reason = getattr(error, "strerror", None) or "it is empty, or no image"
        raise NetcError(f"cannot read the image: {reason}", at=path) from error
    if stored is None:
        raise NetcError("cannot read the image", at=path, remedy="use a format that OpenCV reads: PNG, JPEG")
    image = _as_float(stored)
    if image.ndim == 2:
        image = image[:, :, None]
        return np.repeat(image, 3, axis=2) if color else image
    pixels = image[:, :, 2::-1]
    if color:
        return np.ascontiguousarray(pixels)
    if image.shape[2] == 4:
        opacity = image[:, :, 3:].astype(np.float64)
        pixels = pixels * opacity + (1 - opacity)
    return (pixels.astype(np.float64) @ LUMINANCE)[:, :, None].astype(np.float32)


def _as_float(image: Array) -> Array:
    if np.issubdtype(image.dtype, np.floating):
        return image.astype(np.float32)
    return np.multiply(image, 1 / np.iinfo(image.dtype).max, dtype=np.float64).astype(np.float32)


def resize_image(im: Array, new_dims: Sequence[int], interp_order: int = 1) -> Array:
    """An H x W x C image resized to `new_dims` (H, W): float32.

    interp_order: 1 for bilinear, 0 for the nearest pixel. The numbers are pycaffe's as it was written:
    images of 1 or 3 channels as scikit-image resized until 0.14 (pixel centres mapped, no smoothing before
    shrinking, the lowest value of the image beyond its border, which tells in the outermost pixels of an
    enlarged one); images of other channels as scipy.ndimage.zoom (the corner pixels' centres stay). Later
    scikit-images smooth before they shrink; OpenCV repeats the border. Raises NetcError for other orders.
    """
    image = np.asarray(im)
    size = (int(new_dims[0]), int(new_dims[1]))
    if image.ndim != 3 or min(image.shape) == 0 or min(size) < 1:
        raise NetcError(
            "an image has the axes H, W, C, each at least 1",
            found=f"{list(image.shape)}, to be resized to {list(new_dims)}",
            remedy="add a channel axis to grey images: im[:, :, None]",
        )
    image = image.astype(np.float64)
    if image.shape[2] in (1, 3):
        lowest = float(image.min())
        for axis in (0, 1):
            places = (np.arange(size[axis]) + 0.5) * (image.shape[axis] / size[axis]) - 0.5
            image = _sample(image, axis, places, interp_order, lowest)
    else:
        for axis in (0, 1):
            places = np.linspace(0, image.shape[axis] - 1, size[axis])
            image = _sample(image, axis, places, interp_order, 0.0)
    return image.astype(np.float32)


def _sample(image: Array, axis: int, places: Array, order: int, outside: float) -> Array:
    """The values at fractional places along one axis; `outside` beyond the image."""
    if order not in (0, 1):
        raise NetcError(
            "images are resized bilinearly or to the nearest pixel",
            expected="interp_order 1 or 0",
            found=order,
            remedy="resize with OpenCV (cv2.resize) first, e.g. by INTER_CUBIC",
        )
    length = image.shape[axis]
    padded = np.pad(image, [(int(each == axis),) * 2 for each in range(image.ndim)], constant_values=outside)
    if order == 0:
        return np.take(padded, np.floor(places + 0.5).astype(int) + 1, axis)
    below = np.clip(np.floor(places).astype(int), -1, length - 1)
    weight = (places - below).reshape([-1 if each == axis else 1 for each in range(image.ndim)])
    return np.take(padded, below + 1, axis) * (1 - weight) + np.take(padded, below + 2, axis) * weight


def oversample(images: Sequence[Array] | Array, crop_dims: Sequence[int]) -> Array:
    """Ten crops of each H x W x C image: four corners and the centre, then the same mirrored; float32.

    crop_dims: height and width of a crop. The result has 10 * len(images) crops, those of an image in a row:
    top left, top right, bottom left, bottom right, centre. Raises NetcError where the crops are larger than
    the images.
    """
    height, width = (int(n) for n in crop_dims)
    crops = []
    for image in images:
        below, right = image.shape[0] - height, image.shape[1] - width
        if below < 0 or right < 0:
            raise NetcError(
                "the crops are larger than the image",
                expected=f"at least {height} x {width}",
                found=f"{image.shape[0]} x {image.shape[1]}",
                remedy="resize the image first, or give a larger image_dims",
            )
        corners = [(0, 0), (0, right), (below, 0), (below, right), (below // 2, right // 2)]
        upright = [image[y : y + height, x : x + width] for y, x in corners]
        crops += upright + [crop[:, ::-1] for crop in upright]
    return np.array(crops, np.float32)
