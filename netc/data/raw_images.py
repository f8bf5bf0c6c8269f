"""Images as they are decoded, for those who crop, mirror, centre and scale them where they train."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

PLACE = np.dtype([("top", "i4"), ("left", "i4"), ("mirrored", "i4")])  # of an image's crop
PIXELS_ALIGNED = 256  # bytes


@dataclass(frozen=True, eq=False)
class RawImages:
    """What the raw batches of a source look like, and what turns their pixels into the first top.

    That is y = (pixel - mean) * scale in fp32, of each image's crop, mirrored where its place says so. shape:
    (N, C, H, W) of the pixels; crop: (P, Q); mean_values: a float for each channel; mean_image: (C, H, W), of
    which the crop's pixels are taken, before mirroring; at most one of the means is there; labelled: whether
    a second top holds a label for each image.
    """

    shape: tuple[int, ...]
    crop: tuple[int, int]
    labelled: bool
    scale: float = 1.0
    mean_values: np.ndarray | None = None
    mean_image: np.ndarray | None = None

    @property
    def label_offset(self) -> int:
        """Where in a batch's bytes the labels begin; the places lie before them."""
        return self.shape[0] * PLACE.itemsize

    @property
    def pixel_offset(self) -> int:
        """Where in a batch's bytes the pixels begin."""
        before = self.label_offset + (4 * self.shape[0] if self.labelled else 0)
        return -(-before // PIXELS_ALIGNED) * PIXELS_ALIGNED

    @property
    def nbytes(self) -> int:
        """The size of a batch."""
        return self.pixel_offset + math.prod(self.shape)


class RawBatch:
    """One batch: places, labels and pixels one behind the other in `memory`, so that one copy takes all."""

    def __init__(self, images: RawImages, memory: np.ndarray) -> None:
        """memory: `images.nbytes` bytes."""
        count = images.shape[0]
        self.memory = memory
        self.places: np.ndarray = memory[: images.label_offset].view(PLACE)
        labels = memory[images.label_offset :][: 4 * count]
        self.labels: np.ndarray | None = labels.view(np.float32) if images.labelled else None
        self.pixels = memory[images.pixel_offset :].reshape(images.shape)
