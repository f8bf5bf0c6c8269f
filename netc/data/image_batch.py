"""Images and labels become the arrays of a batch, all of the shape that the net was told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from netc.data.prefetch import ArrayPool
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

    def build(
        self,
        images: Sequence[np.ndarray] | np.ndarray,
        labels: np.ndarray,
        key: Callable[[int], str],
        position: int,
        pool: ArrayPool,
    ) -> list[np.ndarray]:
        """The arrays of one batch. key: names image i. Raises NetcError where an image does not fit."""
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
            return [data]
        top = pool.take((len(images),))
        top[:] = labels
        return [data, top]

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
