"""Brings images into a net's input as a data layer does: bytes in BGR, resized, cropped, less a mean."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from netc.errors import NetcError
from netc.layer import Shape
from netc.runtime import Net
from netc.schema.blobs import read_mean

log = logging.getLogger(__name__)

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

Array = np.ndarray


def find_images(paths: Sequence[str]) -> list[str]:
    """The image files named, and those in the folders named, in order of name. Raises NetcError for none."""
    found: list[str] = []
    for path in paths:
        if not os.path.isdir(path):
            found.append(path)
            continue
        inside = sorted(str(file) for file in Path(path).rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        if not inside:
            raise NetcError(f"there are no images in {path}", expected=" ".join(IMAGE_SUFFIXES))
        found += inside
    return found


def image_input(net: Net) -> tuple[str, Shape]:
    """The name and shape of the input that takes images. Raises NetcError for a net without one."""
    for name in net.inputs:
        shape = tuple(net.blobs[name].shape)
        if len(shape) == 4 and shape[1] in (1, 3):
            return name, shape
    raise NetcError(
        "the net has no input for images",
        expected="an Input layer of shape N x 1 x H x W or N x 3 x H x W",
        found=", ".join(f"{name} {list(net.blobs[name].shape)}" for name in net.inputs) or "no inputs",
        remedy="make a deploy net: netc deploy train_val.prototxt deploy.prototxt",
    )


@dataclass
class Preparation:
    """What is done to an image: resized to `resize` (height, width; the input's size if None), cropped to the
    input's size, less `mean` (a value per channel, or C x H x W of the resized size), times `scale`."""

    channels: int
    height: int
    width: int
    resize: tuple[int, int] | None = None
    mean: Array = field(default_factory=lambda: np.zeros(1, np.float32))
    scale: float = 1.0
    oversample: bool = False

    def __post_init__(self) -> None:
        """Raises NetcError where the parts do not fit each other."""
        if self.size[0] < self.height or self.size[1] < self.width:
            raise NetcError(
                "images are resized to less than the net's input",
                expected=f"at least {self.height}x{self.width}",
                found=f"{self.size[0]}x{self.size[1]}",
            )
        self.mean = self._fitting_mean(np.asarray(self.mean, np.float32))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width before cropping."""
        return self.resize or (self.height, self.width)

    @property
    def crops_per_image(self) -> int:
        return 10 if self.oversample else 1

    def _fitting_mean(self, mean: Array) -> Array:
        """The mean as C x 1 x 1, or C x H x W of the resized image; one of another size becomes its means."""
        if mean.ndim == 3 and mean.shape[1:] != self.size:
            log.info("the mean image is %dx%d: its channels' means are taken", *mean.shape[1:])
            mean = mean.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)
        if mean.shape[0] not in (1, self.channels):
            raise NetcError(
                "the mean does not fit the net's input",
                expected=f"1 or {self.channels} channels",
                found=mean.shape[0],
            )
        return mean if mean.ndim == 3 else mean[:, None, None]

    def crops(self, image: Array) -> Array:
        """The input's values for an image (H x W x C bytes): (1 or 10) x C x H x W, float32.

        With `oversample` the four corners and the centre, then the same mirrored.
        """
        if image.shape[:2] != self.size:
            image = cv2.resize(image, self.size[::-1])
        planes = np.atleast_3d(image).transpose(2, 0, 1).astype(np.float32) - self.mean
        planes *= np.float32(self.scale)
        room = self.size[0] - self.height, self.size[1] - self.width
        centre = (room[0] // 2, room[1] // 2)
        corners = [(top, left) for top in (0, room[0]) for left in (0, room[1])] if self.oversample else []
        cut = np.stack(
            [planes[:, top : top + self.height, left : left + self.width] for top, left in (*corners, centre)]
        )
        return np.concatenate([cut, cut[..., ::-1]]) if self.oversample else cut

    def load(self, path: str) -> Array:
        """An image file as bytes, H x W x C with C as the net wants it. Raises NetcError."""
        flag = cv2.IMREAD_GRAYSCALE if self.channels == 1 else cv2.IMREAD_COLOR
        try:
            image = cv2.imdecode(np.fromfile(path, np.uint8), flag)
        except (OSError, cv2.error) as error:
            reason = getattr(error, "strerror", None) or "it is empty, or no image"
            raise NetcError(f"cannot read the image: {reason}", at=path) from error
        if image is None:
            raise NetcError(
                "cannot read the image", at=path, remedy="use a format that OpenCV reads: PNG, JPEG"
            )
        return image


def load_mean(path: str) -> Array:
    """A mean of one image: a .binaryproto, or a .npy of C values or C x H x W. Raises NetcError."""
    if Path(path).suffix != ".npy":
        return read_mean(path)
    try:
        mean = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise NetcError("cannot read the mean", at=path, found=str(error).splitlines()[0]) from error
    if mean.ndim not in (1, 3):
        raise NetcError("the file holds no mean", at=path, expected="C, or C x H x W", found=list(mean.shape))
    return np.asarray(mean, np.float32)


def run_batches(net: Net, name: str, values: Sequence[Array], batch: int) -> Iterator[dict[str, Array]]:
    """The outputs of the net for values of its input, a `batch` of them at a time; copies."""
    for start in range(0, len(values), batch):
        part = np.stack(values[start : start + batch])
        if tuple(net.blobs[name].shape) != part.shape:
            net.reshape_input(name, part.shape)
            net.reshape()
        net.blobs[name].data[...] = part
        net.forward()
        yield {output.name: output.data.copy() for output in net.output_values()}
