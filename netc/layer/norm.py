"""LRN and BatchNorm: values are divided by the size of their neighbours, or of their channel."""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Array, Buffers, Layer, ParamBlob, Scratch, Shape, count
from netc.layer.registry import register
from netc.layer.window import overlap
from netc.proto import netc_pb2 as pb


@register
class LRN(Layer):
    """y = x s^-beta with s = k + (alpha / cells) * (the sum of x^2 over a window around each x).

    ACROSS_CHANNELS: the window is `local_size` channels at the same place. WITHIN_CHANNEL: it is local_size x
    local_size places of the same channel and, as in Caffe, k is 1 whatever the prototxt says. What lies
    outside the blob counts as 0. Shapes: (N, C, H, W) to the same. (Krizhevsky et al., "ImageNet
    classification with deep convolutional neural networks", 2012, section 3.3)
    """

    type = "LRN"
    options_field = "lrn_param"
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        size = self.options.local_size
        if len(bottoms[0]) != 4:
            raise self.error(
                "LRN needs (N, C, H, W)", blob=self.spec.bottom[0], expected="4 axes", found=bottoms[0]
            )
        if size % 2 == 0:
            raise self.error("the window needs a middle", "local_size", expected="an odd number", found=size)
        across = self.options.norm_region == pb.LRNParameter.ACROSS_CHANNELS
        self.axes = (1,) if across else (2, 3)
        self.k = self.dtype.type(self.options.k if across else 1)
        self.weight = self.dtype.type(self.options.alpha / size ** len(self.axes))
        self.saved = {"scale": Scratch(bottoms[0])}
        return [bottoms[0]]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, scale = b.bottoms[0], b.saved["scale"]
        xp.multiply(self._window_sum(xp, x * x), self.weight, out=scale)
        scale += self.k
        xp.multiply(x, self._power(xp, scale), out=b.tops[0])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        x, scale, dy, dx = b.bottoms[0], b.saved["scale"], b.top_grads[0], b.bottom_grads[0]
        if dx is None:
            return
        power = self._power(xp, scale)
        power *= dy
        ratio = x * power
        ratio /= scale
        factor = self.dtype.type(-2 * self.options.beta) * self.weight
        xp.multiply(self._window_sum(xp, ratio), factor, out=dx)
        dx *= x
        dx += power

    def _window_sum(self, xp: ModuleType, x: Array) -> Array:
        """The sum over each cell's window, one axis after the other."""
        for axis in self.axes:
            total = x.copy()
            for offset in range(1, self.options.local_size // 2 + 1):
                for step in (-offset, offset):
                    joined = overlap(step, 1, x.shape[axis], x.shape[axis])
                    outputs, inputs = ((slice(None),) * axis + (part,) for part in joined)
                    total[outputs] += x[inputs]
            x = total
        return x

    def _power(self, xp: ModuleType, scale: Array) -> Array:
        """scale^-beta; square roots for the usual beta, since a general power takes many times as long."""
        if self.options.beta != 0.75:
            return scale ** self.dtype.type(-self.options.beta)
        root = xp.sqrt(scale)
        fourth = xp.sqrt(root)
        fourth *= root
        return xp.reciprocal(fourth, out=fourth)


@register
class BatchNorm(Layer):
    """y = (x - mean) / sqrt(variance + eps) for each channel (axis 1).

    With batch statistics (the default in TRAIN) mean and variance are the batch's over all axes but 1, and
    the running sums take them in: blob 0 (mean), blob 1 (unbiased variance) and blob 2 (the weight of both
    sums) become `moving_average_fraction` times themselves plus the batch's. With global statistics (the
    default in TEST) they are blobs 0 and 1 divided by blob 2, or 0 where that is 0. No blob learns by
    gradient; factor and bias are a Scale layer's. (Ioffe and Szegedy, "Batch normalization", 2015)

    With NVIDIA's `scale_bias` or Intel's `use_weight_bias` (or a filler of theirs) blobs 3 and 4 are a
    learned factor (1 unless filled) and bias (C): y is multiplied by the one and the other is added;
    `bias_term: false` leaves the bias out.
    """

    type = "BatchNorm"
    options_field = "batch_norm_param"
    in_place = True
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape = bottoms[0]
        if not shape:
            raise self.error(
                "BatchNorm needs an axis to normalise over", blob=self.spec.bottom[0], found=shape
            )
        if self.options.eps < 0:
            raise self.error("eps must not be negative", "eps", expected="0 or more", found=self.options.eps)
        channels = shape[1] if len(shape) > 1 else 1
        images = shape[0]
        self.cells = (images, channels, count(shape) // max(1, images * channels))
        self.from_batch = not self.option("use_global_stats", self.phase == pb.TEST)
        self.params = [ParamBlob(of, None, lr_mult=0) for of in ((channels,), (channels,), (1,))]
        self.params += self._factor_and_bias(channels)
        self.changed_params = (0, 1, 2) if self.from_batch else ()
        self.learns = len(self.params) > 3
        self.saved = {"inverse": Scratch((channels,))}
        if self.learns or (self.from_batch and self.runs_in_place):
            # In place the bottom is gone by the time its normalised values are wanted.
            self.saved["normalised"] = Scratch(shape)
        elif self.from_batch:
            self.saved["mean"] = Scratch((channels,))
        self.backward_bottoms = (0,) if "mean" in self.saved else ()
        return [shape]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, y, inverse = b.bottoms[0].reshape(self.cells), b.tops[0].reshape(self.cells), b.saved["inverse"]
        weight = 1 / (self.cells[0] * self.cells[2]) if self.from_batch and x.size else 0
        if self.from_batch:
            mean = self._over_cells(x.sum(axis=2)) * x.dtype.type(weight)
            if "mean" in self.saved:
                b.saved["mean"][...] = mean
        else:
            mean, variance = self._global(xp, b)
        xp.subtract(x, mean[:, None], out=y)
        if self.from_batch:
            variance = self._over_cells(xp.einsum("ncs,ncs->nc", y, y)) * x.dtype.type(weight)
            self._average(b, mean, variance)
        inverse[...] = 1 / xp.sqrt(variance + x.dtype.type(self.options.eps))
        y *= inverse[:, None]
        if "normalised" in self.saved:
            b.saved["normalised"][...] = b.tops[0]
        if self.learns:
            y *= b.params[3][:, None]
        for bias in b.params[4:]:
            y += bias[:, None]

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dy: Array = b.top_grads[0].reshape(self.cells)  # type: ignore[union-attr]
        if self.learns:
            for gradient, value in zip(
                b.param_grads[3:], (b.saved["normalised"].reshape(self.cells), None), strict=False
            ):
                if gradient is not None:
                    gradient += self._over_cells((dy if value is None else dy * value).sum(axis=2))
            dy = dy * b.params[3][:, None]
        if b.bottom_grads[0] is None or not dy.size:
            return
        dx = b.bottom_grads[0].reshape(self.cells)
        inverse = b.saved["inverse"]
        if not self.from_batch:
            xp.multiply(dy, inverse[:, None], out=dx)
            return
        # dx = (dy - mean(dy) - y mean(dy y)) / sqrt(variance + eps), where y are the normalised values.
        weight = dy.dtype.type(1 / (self.cells[0] * self.cells[2]))
        if "normalised" in self.saved:
            y = b.saved["normalised"].reshape(self.cells)
        else:
            y = b.bottoms[0].reshape(self.cells) - b.saved["mean"][:, None]
            y *= inverse[:, None]
        along = self._over_cells(xp.einsum("ncs,ncs->nc", dy, y)) * weight
        mean = self._over_cells(dy.sum(axis=2)) * weight
        y = xp.multiply(y, along[:, None], out=None if "normalised" in self.saved else y)
        xp.subtract(dy, y, out=dx)
        dx -= mean[:, None]
        dx *= inverse[:, None]

    def _factor_and_bias(self, channels: int) -> list[ParamBlob]:
        """Blobs 3 and 4 where the options ask for them."""
        options = self.options
        fillers = [name for name in ("scale_filler", "filler", "bias_filler") if options.HasField(name)]
        switches = [name for name in ("scale_bias", "use_weight_bias") if options.HasField(name)]
        if not (any(getattr(options, name) for name in switches) if switches else fillers):
            return []
        ones = pb.FillerParameter(type="constant", value=1)
        factor = ParamBlob((channels,), self.option("scale_filler", self.option("filler", ones)))
        return [factor, ParamBlob((channels,), self.option("bias_filler"))][: 1 + options.bias_term]

    def _global(self, xp: ModuleType, b: Buffers) -> tuple[Array, Array]:
        """The running mean and variance: the sums divided by their weight, 0 where it is 0."""
        mean, variance, weight = b.params[:3]
        share = xp.where(weight == 0, 0, 1 / xp.where(weight == 0, 1, weight)).astype(weight.dtype)
        return mean * share, variance * share

    def _average(self, b: Buffers, mean: Array, variance: Array) -> None:
        """Takes the statistics of one batch into the running sums."""
        fraction = mean.dtype.type(self.options.moving_average_fraction)
        cells = self.cells[0] * self.cells[2]
        unbias = mean.dtype.type(cells / (cells - 1) if cells > 1 else 1)
        for blob, value in zip(b.params[:3], (mean, unbias * variance, 1), strict=True):
            blob *= fraction
            blob += value

    @staticmethod
    def _over_cells(per_image: Array) -> Array:
        """(N, C) sums to (C)."""
        return per_image.sum(axis=0)
