"""Images and labels become the arrays of a batch, all of the shape that the net was told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from netc.data.prefetch import ArrayPool, Batch
from netc.data.raw_images import RawBatch, RawImages
from netc.data.source import Origin, Shape
from netc.data.transform import Transformer

MIXED_REMEDY = "set crop_size, resize the images, or use batch_size: 1"


class ImageBatcher:
    """Checks, transforms and packs the images of a batch."""

    def __init__(
        self,
        transformer: Transformer,
        batch_size: int,
        tops: int,
        *,
        fixed: bool,
        first: tuple[Shape, str],
        origin: Origin,
    ) -> None:
        """fixed: every image must come out in one shape, which `first` (an image's C, H, W and its key) sets.

        tops: 1 for images alone, 2 for images and labels. Raises NetcError where the first image does not
        fit.
        """
        self._transformer = transformer
        self._origin = origin
        self._with_labels = tops > 1
        shape = transformer.output_shape(*first)
        self._shape = shape if fixed or batch_size > 1 else None
        self.shapes: tuple[Shape, ...] | None = None
        if self._shape:
            self.shapes = ((batch_size, *shape), (batch_size,))[:tops]
        self.raw = self._raw_images((batch_size, *first[0]), shape) if self._shape else None

    def _raw_images(self, images: Shape, shape: Shape) -> RawImages:
        """What raw batches look like, for images (N, C, H, W) that come out as (C, h, w)."""
        values = self._transformer.mean_values
        return RawImages(
            images,
            (shape[1], shape[2]),
            self._with_labels,
            self._transformer.scale,
            np.resize(values, shape[0]) if len(values) else None,
            self._transformer.mean,
        )

    def build(
        self,
        images: Sequence[np.ndarray] | np.ndarray,
        labels: np.ndarray,
        key: Callable[[int], str],
        position: int,
        pool: ArrayPool,
    ) -> Batch:
        """One batch, raw where the pool asks for that and the images allow it. key: names image i.

        Raises NetcError where an image does not fit.
        """
        if pool.allocate_raw and self.raw and _are_like(images, self.raw):
            return self._build_raw(self.raw, images, labels, position, pool)
        shape = self._shape
        for i in range(1 if isinstance(images, np.ndarray) else len(images)):
            found = self._transformer.output_shape(images[i].shape, key(i))
            if shape is None:
                shape = found
            elif found != shape:
                raise self._mixed(shape, found, key(i))
        assert shape is not None
        data = pool.take((len(images), *shape))
        self._transformer.apply(images, data, position)
        if not self._with_labels:
            return Batch([data])
        top = pool.take((len(images),))
        top[:] = labels
        return Batch([data, top])

    def _build_raw(
        self,
        kind: RawImages,
        images: Sequence[np.ndarray] | np.ndarray,
        labels: np.ndarray,
        position: int,
        pool: ArrayPool,
    ) -> Batch:
        """One batch as it is, with the places that the transformation draws for it."""
        raw = RawBatch(kind, pool.take_raw(kind.nbytes))
        raw.places[:] = self._transformer.places(len(images), kind.shape[1:], position)
        if raw.labels is not None:
            raw.labels[:] = labels
        for row, image in zip(raw.pixels, images, strict=True):
            row[...] = image
        return Batch([raw.memory], raw=raw)

    def _mixed(self, expected: Shape, found: Shape, key: str) -> Exception:
        remedy = (
            MIXED_REMEDY
            if expected[0] == found[0]
            else "set force_color or force_gray, or convert with one of them"
        )
        return self._origin.error(
            f"the image {key} does not have the shape of the others",
            expected=f"{'x'.join(map(str, expected))} (channels x height x width) after transform_param",
            found="x".join(map(str, found)),
            remedy=remedy,
        )


def _are_like(images: Sequence[np.ndarray] | np.ndarray, raw: RawImages) -> bool:
    """Whether images are bytes of the shape that raw batches have."""
    if isinstance(images, np.ndarray):
        return images.dtype == np.uint8 and images.shape == raw.shape
    return len(images) == raw.shape[0] and all(
        image.dtype == np.uint8 and image.shape == raw.shape[1:] for image in images
    )
