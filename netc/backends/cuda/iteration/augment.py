"""Data augmentation on the device: a batch of bytes is cropped, mirrored, centred and scaled by one kernel.

The meaning is that of `netc.data.transform`, to the last bit; the draws are made there too, and come up in
device memory, so that recorded work stays valid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Device, Memory
from netc.backends.cuda.device.form import MOST_ELEMENTS
from netc.backends.cuda.launching import Launch
from netc.backends.cuda.launching.division import divisor
from netc.backends.cuda.launching.elementwise import PACKS, THREADS, blocks_for, pack_of
from netc.backends.form import Run
from netc.data.raw_images import PLACE
from netc.errors import NetcError

VARIANTS = {"augment": Variant("augment", "augment.cu", f"augment<{PACKS[0]}>", THREADS)}


@dataclass(frozen=True)
class Batch:
    """Images (N, C, H, W), and the size (P, Q) of their crops."""

    images: int
    channels: int
    height: int
    width: int
    crop_height: int
    crop_width: int

    @property
    def count(self) -> int:
        """The elements of what comes out."""
        return self.images * self.channels * self.crop_height * self.crop_width


def augment(
    device: Device,
    batch: Batch,
    images: Memory,
    places: Memory,
    y: Memory,
    *,
    scale: float = 1.0,
    mean_values: Memory | None = None,
    mean_image: Memory | None = None,
) -> Run:
    """y (N, C, P, Q) = (pixel - mean) * scale, of each image's crop, mirrored where its place says so.

    images: bytes; places: a PLACE for each image, read when the work runs, each within its image;
    mean_values: a float for each channel; mean_image: floats (C, H, W), of which the crop's are taken.
    Raises NetcError where the memory is too small, or the batch too large for 32-bit indices.
    """
    pixels = batch.channels * batch.height * batch.width
    for memory, nbytes in (
        (images, batch.images * pixels),
        (places, batch.images * PLACE.itemsize),
        (y, 4 * batch.count),
        (mean_values, 4 * batch.channels),
        (mean_image, 4 * pixels),
    ):
        if memory is not None and memory.nbytes < nbytes:
            raise NetcError(
                f"{memory.name} is too small for a batch of images",
                expected=f"{nbytes:,} bytes",
                found=f"{memory.nbytes:,} bytes",
            )
    if not 0 < batch.count < MOST_ELEMENTS:
        raise NetcError(
            "a batch has no elements, or too many",
            expected=f"1 to {MOST_ELEMENTS - 1:,}",
            found=f"{batch.count:,}",
            remedy="a smaller batch_size",
        )
    pack = pack_of(y) if batch.crop_width % PACKS[0] == 0 else 1
    arguments = (
        np.uint32(batch.count),
        np.bool_(pack > 1),
        *divisor(batch.channels),
        np.int32(batch.height),
        np.int32(batch.width),
        *divisor(batch.crop_height),
        *divisor(batch.crop_width),
        images,
        places,
        mean_values,
        mean_image,
        np.float32(scale),
        y,
    )
    return Launch.of(device, VARIANTS["augment"], (blocks_for(device, batch.count, pack),), arguments)
