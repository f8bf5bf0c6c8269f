"""PriorBox: the default boxes of the cells of a feature map."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from netc.layer.base import Arity, Array, Buffers, Layer, Shape
from netc.layer.registry import register
from netc.layer.size import check_size

SAME_RATIO = 1e-6
DEFAULT_VARIANCE = 0.1


@register
class PriorBox(Layer):
    """Boxes of several sizes and aspect ratios around the centre of every cell of a feature map, and their
    variances.

    For each `min_size` s: a square of side s; with a `max_size` t one of side sqrt(s t); then, for each
    `aspect_ratio` r (and 1 / r, unless `flip` is false), a box of s sqrt(r) x s / sqrt(r). Sizes are in
    pixels of the image and cut to whole numbers, as in SSD's own; a cell is `step` pixels wide, by default
    the image's size over the map's, and its centre lies at `offset` of it.

    Bottoms: the map (N, C, H, W) and the image (N, C, h, w), of which only the shapes count. Top: (1, 2,
    4 H W boxes): corners as shares of the image (clipped to it with `clip`), then the variances. (Liu et al.,
    "SSD", 2016)
    """

    type = "PriorBox"
    options_field = "prior_box_param"
    bottoms = Arity(2)
    differentiable = False
    backward_bottoms = ()
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        for name, shape in zip(self.spec.bottom, bottoms, strict=True):
            if len(shape) != 4:
                raise self.error(
                    "PriorBox needs maps", blob=name, expected="N x C x H x W", found=list(shape)
                )
        self._check()
        cells = bottoms[0][2:]
        if 0 in cells:
            raise self.error("PriorBox needs maps that are not empty", found=list(bottoms[0]))
        check_size(self, "the array of boxes", (*cells, len(list(self._sizes())), 4))
        self.priors = self._boxes(cells, self._image_size(bottoms[1]))
        return [(1, 2, self.priors.size)]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        top = b.tops[0]
        top[0, 0] = self.constant(xp, "priors", lambda: self.priors.reshape(-1))
        top[0, 1] = self.constant(xp, "variances", self._repeated_variances)

    def _repeated_variances(self) -> Array:
        return np.resize(self._variances(), self.priors.size).astype(self.dtype)

    def _check(self) -> None:
        """Raises NetcError where the options contradict each other."""
        options = self.options
        if not options.min_size:
            raise self.error("min_size is not set", "min_size", remedy="state the side of the smallest box")
        if options.max_size and len(options.max_size) != len(options.min_size):
            raise self.error(
                "as many max_size as min_size are needed, or none",
                "max_size",
                expected=len(options.min_size),
                found=len(options.max_size),
            )
        for low, high in zip(options.min_size, options.max_size, strict=False):
            if high <= low:
                raise self.error(
                    "max_size must be larger than its min_size", "max_size", expected=f"> {low:g}", found=high
                )
        for name in ("min_size", "max_size", "aspect_ratio", "variance"):
            for value in getattr(options, name):
                if not 0 < value < math.inf:
                    raise self.error(f"{name} must be above 0, and finite", name, found=value)
        if len(options.variance) not in (0, 1, 4):
            raise self.error(
                "variance is one number for all, or four: of xmin, ymin, xmax and ymax",
                "variance",
                expected="1 or 4",
                found=len(options.variance),
            )
        for whole, height, width in (("img_size", "img_h", "img_w"), ("step", "step_h", "step_w")):
            apart = [name for name in (height, width) if options.HasField(name)]
            if options.HasField(whole) and apart:
                raise self.error(f"{whole} and {apart[0]} cannot both be set", apart[0])
            for name in (whole, *apart):
                if options.HasField(name) and not getattr(options, name) > 0:
                    raise self.error(f"{name} must be above 0", name, found=getattr(options, name))

    def _image_size(self, image: Shape) -> tuple[int, int]:
        options = self.options
        size = options.img_size or 0
        height, width = size or options.img_h, size or options.img_w
        return (height, width) if height and width else (image[2], image[3])

    def _steps(self, cells: Shape, image: tuple[int, int]) -> tuple[float, float]:
        options = self.options
        step_h, step_w = options.step or options.step_h, options.step or options.step_w
        return (step_h, step_w) if step_h and step_w else (image[0] / cells[0], image[1] / cells[1])

    def ratios(self) -> list[float]:
        """The aspect ratios of a cell's boxes, each once; the first is 1."""
        ratios = [1.0]
        for ratio in self.options.aspect_ratio:
            if all(abs(ratio - known) >= SAME_RATIO for known in ratios):
                ratios += [ratio, 1 / ratio] if self.options.flip else [ratio]
        return ratios

    def _sizes(self) -> Iterator[tuple[float, float]]:
        """Width and height of every box of a cell, in pixels."""
        for i, size in enumerate(self.options.min_size):
            side = int(size)
            yield side, side
            if self.options.max_size:
                between = math.sqrt(side * int(self.options.max_size[i]))
                yield between, between
            for ratio in self.ratios()[1:]:
                yield side * math.sqrt(ratio), side / math.sqrt(ratio)

    def _boxes(self, cells: Shape, image: tuple[int, int]) -> np.ndarray:
        """Corners (H, W, boxes of a cell, 4)."""
        step_h, step_w = self._steps(cells, image)
        centers = np.empty((*cells, 1, 2))
        centers[..., 0] = ((np.arange(cells[1]) + self.options.offset) * step_w)[None, :, None]
        centers[..., 1] = ((np.arange(cells[0]) + self.options.offset) * step_h)[:, None, None]
        halves = np.array(list(self._sizes())) / 2
        corners = np.concatenate([centers - halves, centers + halves], axis=-1)
        corners /= [image[1], image[0]] * 2
        if self.options.clip:
            corners = corners.clip(0, 1)
        return corners.astype(self.dtype)

    def _variances(self) -> list[float]:
        return list(self.options.variance) or [DEFAULT_VARIANCE]
