"""Upsample: the values of a pooled map go back to where maximum pooling found them."""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Arity, Array, Buffers, Layer, Shape, count
from netc.layer.registry import register


@register
class Upsample(Layer):
    """(N, C, H, W) to (N, C, P, Q): value i goes to place mask[i] = h Q + w of its channel, the rest is 0.

    Bottom 1 is the second top of a MAX Pooling. P and Q are `upsample_h` and `upsample_w`; or H and W times
    `scale` (2), or times `scale_h` and `scale_w`, one less with `pad_out_h` or `pad_out_w`. Where two values
    go to one place the last one stays, and each gets that place's gradient. (Badrinarayanan et al.,
    "SegNet", 2017)
    """

    type = "Upsample"
    options_field = "upsample_param"
    bottoms = Arity(2)
    backward_bottoms = (1,)
    backward_tops = ()
    decides_on_host = True

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape, mask = bottoms
        if len(shape) != 4:
            raise self.error(
                "Upsample needs (N, C, H, W)", blob=self.spec.bottom[0], expected="4 axes", found=shape
            )
        if mask != shape:
            raise self.error(
                "the mask must have the shape of the values",
                blob=self.spec.bottom[1],
                expected=shape,
                found=mask,
                remedy="bottom 1 is the second top of the Pooling layer whose pooling is undone",
            )
        self.output = self._output(shape[2:])
        return [(*shape[:2], *self.output)]

    def _output(self, size: Shape) -> Shape:
        sizes = [name for name in ("upsample_h", "upsample_w") if self.options.HasField(name)]
        scales = [name for name in ("scale_h", "scale_w") if self.options.HasField(name)]
        if len(sizes) == 2:
            output = (self.options.upsample_h, self.options.upsample_w)
        elif sizes or len(scales) == 1 or (scales and self.options.HasField("scale")):
            given = sizes or scales
            raise self.error(
                "the size of the output is not clear",
                given[0],
                expected="upsample_h and upsample_w, or scale_h and scale_w, or scale",
                found=", ".join(given + ["scale"] * (len(scales) == 2)),
            )
        else:
            scale = (self.options.scale_h, self.options.scale_w) if scales else (self.options.scale,) * 2
            for factor, axis in zip(scale, "hw", strict=True):
                if getattr(self.options, f"pad_out_{axis}") and factor != 2:
                    raise self.error(
                        f"pad_out_{axis} is for a scale of 2",
                        f"pad_out_{axis}",
                        found=f"a scale of {factor}",
                        remedy="give upsample_h and upsample_w",
                    )
            cut = (self.options.pad_out_h, self.options.pad_out_w)
            output = tuple(n * s - c for n, s, c in zip(size, scale, cut, strict=True))
        if min(output) < 2:
            raise self.error(
                "the output must have at least 2 rows and columns", *(sizes[:1] or scales[:1]), found=output
            )
        return output

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        places, channel = self._places(xp, b.bottoms[1])
        y = b.tops[0].reshape(len(places), count(self.output))
        y[...] = 0
        y[channel, places] = b.bottoms[0].reshape(places.shape)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        if b.bottom_grads[1] is not None:
            b.bottom_grads[1][...] = 0
        if b.bottom_grads[0] is not None:
            places, channel = self._places(xp, b.bottoms[1])
            dy = b.top_grads[0].reshape(len(places), count(self.output))  # type: ignore[union-attr]
            b.bottom_grads[0].reshape(places.shape)[...] = dy[channel, places]

    def _places(self, xp: ModuleType, mask: Array) -> tuple[Array, Array]:
        """The places (N C, H W) of the values in their channels, and the channels' numbers (N C, 1)."""
        places = mask.reshape(mask.shape[0] * mask.shape[1], count(mask.shape[2:])).astype(xp.int64)
        cells = count(self.output)
        wrong = (places < 0) | (places >= cells)
        if wrong.any():
            raise self.error(
                "the mask names a place that the output does not have",
                blob=self.spec.bottom[1],
                expected=f"0 to {cells - 1}, for an output of {self.output[0]} x {self.output[1]}",
                found=int(places[wrong][0]),
                remedy="set upsample_h and upsample_w to the size of the Pooling layer's bottom",
            )
        return places, xp.arange(len(places))[:, None]
