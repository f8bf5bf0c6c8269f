"""Crop: a box cut out of a blob, as large as another blob."""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Arity, Array, Buffers, Layer, Shape
from netc.layer.registry import register


@register
class Crop(Layer):
    """Bottom 0 cut down to the size of bottom 1 along `axis` and all axes behind it.

    The box begins at `offset`: one number for all of these axes, or one for each; 0 where it is left out.
    Shapes: (N, C, H, W) and a second blob whose sizes count, not its values, to (N, C, H', W') for the
    default axis 2. (Long et al., "Fully convolutional networks for semantic segmentation", 2015)
    """

    type = "Crop"
    options_field = "crop_param"
    bottoms = Arity(2)
    backward_bottoms = ()
    backward_tops = ()

    box: tuple[slice, ...]  # what is cut out of bottom 0

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape, reference = bottoms
        axis = self.canonical_axis(self.options.axis, len(shape))
        if len(reference) < len(shape):
            raise self.error(
                "bottom 1 must have as many axes as bottom 0",
                blob=self.spec.bottom[1],
                expected=f"{len(shape)} axes, as {self.spec.bottom[0]!r} {list(shape)}",
                found=f"{len(reference)} axes: {list(reference)}",
            )
        offsets = self._offsets(len(shape) - axis)
        wanted = reference[axis : len(shape)]
        for i, (size, offset, have) in enumerate(zip(wanted, offsets, shape[axis:], strict=True), axis):
            if offset + size > have:
                raise self.error(
                    f"the box reaches beyond axis {i} of bottom 0",
                    "offset" if self.options.offset else "axis",
                    blob=self.spec.bottom[0],
                    expected=f"offset + {size} of at most {have}",
                    found=f"{offset} + {size} = {offset + size}",
                    remedy="a smaller offset, or a smaller bottom 1",
                )
        inner = (slice(offset, offset + size) for offset, size in zip(offsets, wanted, strict=True))
        self.box = (slice(None),) * axis + tuple(inner)
        return [shape[:axis] + wanted]

    def _offsets(self, axes: int) -> Shape:
        given = tuple(self.options.offset) or (0,)
        if len(given) not in (1, axes):
            raise self.error(
                "offset must be given once, or once for each axis that is cropped",
                "offset",
                expected=f"1 or {axes} values",
                found=len(given),
            )
        return given if len(given) == axes else given * axes

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        b.tops[0][...] = b.bottoms[0][self.box]

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dy: Array = b.top_grads[0]
        for dx in b.bottom_grads:
            if dx is not None:
                dx[...] = 0
        if b.bottom_grads[0] is not None:
            b.bottom_grads[0][self.box] = dy
