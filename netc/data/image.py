"""What OpenCV does to single images: decodes them, resizes them, splits them into planes, and mirrors planes.

Raw images need none of it: who may have those alone imports this file only where an image asks for it.
"""

from __future__ import annotations

import cv2
import numpy as np

from netc.data.bad_records import Undecodable
from netc.data.pixel_room import PixelRoom


def decode_image(encoded: np.ndarray, flag: int) -> np.ndarray:
    """The image in a file's bytes (uint8) as OpenCV has it: uint8, H x W or H x W x C, BGR. Raises
    Undecodable.

    flag: one of `read_flags`.
    """
    try:
        image = cv2.imdecode(encoded, flag) if encoded.size else None
    except cv2.error as error:
        raise Undecodable(f"OpenCV: {error.err or error}") from error
    if image is None:
        raise Undecodable("not an image that OpenCV can read")
    if image.dtype != np.uint8:
        raise Undecodable(f"{image.dtype} pixels; only 8 bits a channel can be read")
    return image


def resize(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """An OpenCV image resized bilinearly to size (height, width), as it is where size is None."""
    return image if size is None else cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def planes(image: np.ndarray, room: PixelRoom | None = None) -> np.ndarray:
    """An OpenCV image (H x W or H x W x C, uint8) as contiguous C x H x W; room: where it is put."""
    if image.ndim == 2:
        return image[None]
    height, width, channels = image.shape
    shape = (channels, height, width)
    separate = np.empty(shape, np.uint8) if room is None else room.take(shape)
    cv2.split(image, list(separate))
    return separate


def mirror(planes: np.ndarray) -> np.ndarray:
    """C x H x W with left and right exchanged."""
    mirrored = np.empty(planes.shape, planes.dtype)
    for plane, target in zip(planes, mirrored, strict=True):
        cv2.flip(plane, 1, dst=target)
    return mirrored
