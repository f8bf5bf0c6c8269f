"""BN: batch normalisation with a learned scale and shift in one layer, as PSPNet and SegNet have it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from netc.layer.base import Arity, Array, Buffers, Indices, Layer, ParamBlob, Scratch, Shape, count
from netc.layer.registry import register
from netc.proto import netc_pb2 as pb


@register
class BN(Layer):
    """y = scale (x - mean) / sqrt(variance + eps) + shift for each channel (axis 1).

    Two layers go by this name. With `bn_mode`, `scale_filler` or `shift_filler` it is SegNet's (`SegNetBN`),
    otherwise PSPNet's, described here. Parameters, each (1, C, 1, 1): scale (`slope_filler`), shift
    (`bias_filler`), running mean, running variance; without their fillers scale and shift start as 0.

    In TRAIN mean and variance are the batch's, and the running ones become `momentum` times themselves plus
    1 - momentum times the batch's (the variance not unbiased). In TEST, and with `frozen`, they are the
    running ones, and then nothing learns. In TEST the gradient still is that of batch statistics.
    (Ioffe and Szegedy, "Batch normalization", 2015; Zhao et al., "PSPNet", 2017)
    """

    type = "BN"
    options_field = "bn_param"
    in_place = True
    backward_bottoms: Indices = ()
    backward_tops: Indices = ()

    cells: Shape  # N, C, cells of an image
    eps: float

    def __new__(cls, spec: pb.LayerParameter, *args: Any, **options: Any) -> BN:
        of_segnet = any(spec.bn_param.HasField(name) for name in ("bn_mode", "scale_filler", "shift_filler"))
        return super().__new__(SegNetBN if of_segnet else cls)

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape = self.read_cells(bottoms)
        self.eps, frozen = self.options.eps, self.options.frozen
        self.from_batch = self.phase == pb.TRAIN and not frozen
        self.changed_params = (2, 3) if self.from_batch else ()
        rate = 0 if frozen else None
        ones = pb.FillerParameter(type="constant", value=1)
        self.params = [
            ParamBlob(shape, self.option("slope_filler"), lr_mult=rate),
            ParamBlob(shape, self.option("bias_filler"), lr_mult=rate),
            ParamBlob(shape, None, lr_mult=0),
            ParamBlob(shape, ones if frozen else None, lr_mult=0),
        ]
        if not frozen:
            self.saved["normalised"] = Scratch(bottoms[0])
        return [bottoms[0]]

    def read_cells(self, bottoms: list[Shape]) -> Shape:
        """Sets `cells` and `saved`; the shape of a parameter."""
        shape = bottoms[0]
        if not 2 <= len(shape) <= 4:
            raise self.error(
                "BN needs a channel axis",
                blob=self.spec.bottom[0],
                expected="2 to 4 axes: N, C, H, W",
                found=shape,
            )
        if self.options.eps < 0:
            raise self.error("eps must not be negative", "eps", expected="0 or more", found=self.options.eps)
        self.cells = (shape[0], shape[1], count(shape[2:]))
        self.saved = {"inverse": Scratch((shape[1],))}
        return (1, shape[1], 1, 1)

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        scale, shift, running_mean, running_variance = (param.reshape(-1) for param in b.params)
        if self.from_batch:
            mean, variance = batch_statistics(xp, b.bottoms[0].reshape(self.cells))
            momentum = mean.dtype.type(self.options.momentum)
            for running, value in ((running_mean, mean), (running_variance, variance)):
                running *= momentum
                running += (1 - momentum) * value
        else:
            mean, variance = running_mean, running_variance
        self.normalise(xp, b, mean, variance, scale, shift)

    def normalise(
        self, xp: ModuleType, b: Buffers, mean: Array, variance: Array, scale: Array, shift: Array
    ) -> None:
        """y = scale (x - mean) / sqrt(variance + eps) + shift; the normalised values are kept if `saved` has
        room."""
        y, inverse = b.tops[0].reshape(self.cells), b.saved["inverse"]
        inverse[...] = 1 / xp.sqrt(variance + variance.dtype.type(self.eps))
        xp.subtract(b.bottoms[0].reshape(self.cells), mean[:, None], out=y)
        y *= inverse[:, None]
        if "normalised" in self.saved:
            b.saved["normalised"][...] = b.tops[0]
        y *= scale[:, None]
        y += shift[:, None]

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        scale, inverse = b.params[0].reshape(-1), b.saved["inverse"]
        dy = b.top_grads[0]
        if dy is None:  # of several tops only the statistics are given a gradient, which goes nowhere
            if b.bottom_grads[0] is not None:
                b.bottom_grads[0][...] = 0
            return
        dy = dy.reshape(self.cells)
        dx = None if b.bottom_grads[0] is None else b.bottom_grads[0].reshape(self.cells)
        if "normalised" not in self.saved:
            if dx is not None:
                xp.multiply(dy, (scale * inverse)[:, None], out=dx)
            return
        normalised = b.saved["normalised"].reshape(self.cells)
        along = xp.einsum("ncs,ncs->nc", dy, normalised).sum(axis=0)
        total = dy.sum(axis=2).sum(axis=0)
        for gradient, value in zip(b.param_grads[:2], (along, total), strict=True):
            if gradient is not None:
                gradient += value.reshape(gradient.shape)
        if dx is not None:
            # dx = scale (dy - mean(dy) - n mean(dy n)) / sqrt(variance + eps), n the normalised values
            share = dy.dtype.type(1 / max(1, self.cells[0] * self.cells[2]))
            xp.subtract(dy, normalised * (along * share)[:, None], out=dx)
            dx -= (total * share)[:, None]
            dx *= (scale * inverse)[:, None]


class SegNetBN(BN):
    """The same with batch statistics in TRAIN and in TEST, and no running ones.

    Parameters (1, C, 1, 1): scale (`scale_filler`), shift (`shift_filler`); eps is 1e-9. A second and a third
    top (1, C, 1, 1) hold mean and variance. With `bn_mode: INFERENCE` y = scale x + shift: the statistics of
    a data set have been worked into both. (Badrinarayanan et al., "SegNet", 2017)
    """

    tops = Arity(1, 3)

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape = self.read_cells(bottoms)
        self.eps = 1e-9
        self.learns = self.options.bn_mode == pb.BNParameter.LEARN
        self.params = [ParamBlob(shape, self.option(name)) for name in ("scale_filler", "shift_filler")]
        if self.learns:
            self.saved["normalised"] = Scratch(bottoms[0])
        else:
            self.saved = {}
            self.backward_bottoms = (0,)
        return [bottoms[0], shape, shape][: len(self.spec.top)]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        scale, shift = (param.reshape(-1) for param in b.params)
        if self.learns:
            mean, variance = batch_statistics(xp, b.bottoms[0].reshape(self.cells))
            self.normalise(xp, b, mean, variance, scale, shift)
            for top, value in zip(b.tops[1:], (mean, variance), strict=False):
                top[...] = value.reshape(top.shape)
            return
        for top in b.tops[1:]:
            top[...] = 0
        y = b.tops[0].reshape(self.cells)
        xp.multiply(b.bottoms[0].reshape(self.cells), scale[:, None], out=y)
        y += shift[:, None]

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        if self.learns or b.top_grads[0] is None:
            super().backward(xp, b)
            return
        x, dy = b.bottoms[0].reshape(self.cells), b.top_grads[0].reshape(self.cells)
        dscale, dshift = b.param_grads
        if dscale is not None:
            dscale += xp.einsum("ncs,ncs->nc", dy, x).sum(axis=0).reshape(dscale.shape)
        if dshift is not None:
            dshift += dy.sum(axis=2).sum(axis=0).reshape(dshift.shape)
        if b.bottom_grads[0] is not None:
            xp.multiply(dy, b.params[0].reshape(-1, 1), out=b.bottom_grads[0].reshape(self.cells))


def batch_statistics(xp: ModuleType, x: Array) -> tuple[Array, Array]:
    """Mean and variance (C) of the channels of (N, C, cells) over images and cells."""
    share = x.dtype.type(1 / max(1, x.shape[0] * x.shape[2]))
    mean = x.sum(axis=2).sum(axis=0) * share
    centred = x - mean[:, None]
    return mean, xp.einsum("ncs,ncs->nc", centred, centred).sum(axis=0) * share
