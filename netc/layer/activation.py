"""Elementwise layers: y = f(x) for every element, and dx = dy * f'(x).

Backward reads what Caffe's reads (the bottom, the top, or both), because in place those are one memory: what
a layer further on writes there shows in these gradients as it does in Caffe's.
"""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Array, Buffers, Layer, ParamBlob, Scratch, Shape
from netc.layer.registry import register
from netc.proto import netc_pb2 as pb


class Elementwise(Layer):
    """One bottom, one top of the same shape."""

    in_place = True

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        return [bottoms[0]]


@register
class ReLU(Elementwise):
    """y = max(x, 0) + negative_slope * min(x, 0). (Nair and Hinton, 2010; leaky: Maas et al., 2013)"""

    type = "ReLU"
    options_field = "relu_param"
    backward_tops = ()

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, y, slope = b.bottoms[0], b.tops[0], self.options.negative_slope
        if slope == 0:
            xp.maximum(x, 0, out=y)
        else:
            y[...] = xp.maximum(x, 0) + x.dtype.type(slope) * xp.minimum(x, 0)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        x, dy, dx, slope = b.bottoms[0], b.top_grads[0], b.bottom_grads[0], self.options.negative_slope
        if slope == 0:
            xp.multiply(dy, x > 0, out=dx)
        else:
            xp.multiply(dy, _two_slopes(x, x.dtype.type(slope)), out=dx)


@register
class ReLU6(Elementwise):
    """y = min(max(x, 0) + negative_slope * min(x, 0), 6); the slope is `relu6_param`'s. (Krizhevsky, 2010)

    The gradient is 0 at 6 itself, so that it is the same in place.
    """

    type = "ReLU6"
    options_field = "relu6_param"
    backward_tops = ()

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, y, slope = b.bottoms[0], b.tops[0], self.options.negative_slope
        below = x.dtype.type(slope) * xp.minimum(x, 0) if slope else None
        xp.maximum(x, 0, out=y)
        if below is not None:
            y += below
        xp.minimum(y, 6, out=y)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        x = b.bottoms[0]
        slopes = ((x > 0) & (x < 6)) + (x <= 0) * x.dtype.type(self.options.negative_slope)
        xp.multiply(b.top_grads[0], slopes, out=b.bottom_grads[0])


@register
class PReLU(Elementwise):
    """y = max(x, 0) + slope_c * min(x, 0) with a learned slope for each channel c. (He et al., 2015)

    Parameter 0: the slopes, (C,), or a scalar with `channel_shared`; they start at 0.25 unless `filler` says
    otherwise.
    """

    type = "PReLU"
    options_field = "prelu_param"
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape = bottoms[0]
        if len(shape) < 2:
            raise self.error(
                "PReLU needs a channel axis",
                expected="a bottom of at least 2 axes",
                found=f"{len(shape)} axes: {list(shape)}",
                remedy="reshape the bottom to N x C, or use ReLU with negative_slope",
            )
        filler = pb.FillerParameter(type="constant", value=0.25)
        if self.options.HasField("filler"):
            filler = self.options.filler
        self.params = [ParamBlob(() if self.options.channel_shared else (shape[1],), filler)]
        if self.runs_in_place:
            self.saved = {"x": Scratch(shape)}
        return [shape]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, y = b.bottoms[0], b.tops[0]
        if self.runs_in_place:
            b.saved["x"][...] = x
        y[...] = xp.maximum(x, 0) + self._slopes(b.params[0], x.ndim) * xp.minimum(x, 0)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        x = b.saved["x"] if self.runs_in_place else b.bottoms[0]
        dy, dx, dslope = b.top_grads[0], b.bottom_grads[0], b.param_grads[0]
        if dslope is not None:
            below = xp.minimum(x, 0)
            below *= dy
            summed = (
                None if self.options.channel_shared else tuple(axis for axis in range(x.ndim) if axis != 1)
            )
            dslope += below.sum(axis=summed)
        if dx is not None:
            xp.multiply(dy, _two_slopes(x, self._slopes(b.params[0], x.ndim)), out=dx)

    def _slopes(self, slopes: Array, ndim: int) -> Array:
        """The slopes, shaped so that they broadcast along the channel axis."""
        return slopes if self.options.channel_shared else slopes.reshape((-1,) + (1,) * (ndim - 2))


@register
class ELU(Elementwise):
    """y = x where x > 0, alpha * (exp(x) - 1) elsewhere. (Clevert et al., 2016)"""

    type = "ELU"
    options_field = "elu_param"

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, y = b.bottoms[0], b.tops[0]
        below = xp.exp(xp.minimum(x, 0))
        below -= 1
        below *= x.dtype.type(self.options.alpha)
        xp.maximum(x, 0, out=y)
        y += below

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        x, y = b.bottoms[0], b.tops[0]
        slope = _two_slopes(x, y + y.dtype.type(self.options.alpha))
        xp.multiply(b.top_grads[0], slope, out=b.bottom_grads[0])


@register
class SeLU(Elementwise):
    """y = lambda x where x > 0, lambda alpha (exp(x) - 1) elsewhere. (Klambauer et al., 2017)

    Where lambda and alpha are left out, mean 0 and variance 1 are kept from layer to layer. In place, the
    fork's gradient takes exp of what the layer wrote, and so does this one.
    """

    type = "SeLU"
    options_field = "selu_param"
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        self.factor = getattr(self.options, "lambda")
        return [bottoms[0]]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, y = b.bottoms[0], b.tops[0]
        below = xp.exp(xp.minimum(x, 0))
        below -= 1
        below *= x.dtype.type(self.options.alpha)
        xp.maximum(x, 0, out=y)
        y += below
        y *= x.dtype.type(self.factor)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        x = b.bottoms[0]
        below = xp.exp(xp.minimum(x, 0))
        below *= x.dtype.type(self.factor * self.options.alpha)
        slopes = xp.where(x > 0, x.dtype.type(self.factor), below)
        xp.multiply(b.top_grads[0], slopes, out=b.bottom_grads[0])


@register
class SeLu(SeLU):
    """SeLU under the other spelling of its name."""

    type = "SeLu"


@register
class Sigmoid(Elementwise):
    """y = 1 / (1 + exp(-x)), computed as tanh(x / 2) / 2 + 1/2, which cannot overflow."""

    type = "Sigmoid"
    options_field = "sigmoid_param"
    backward_bottoms = ()

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        sigmoid(xp, b.bottoms[0], out=b.tops[0])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        y = b.tops[0]
        xp.multiply(b.top_grads[0], y * (1 - y), out=b.bottom_grads[0])


@register
class TanH(Elementwise):
    """y = tanh(x)."""

    type = "TanH"
    options_field = "tanh_param"
    backward_bottoms = ()

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        xp.tanh(b.bottoms[0], out=b.tops[0])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        y = b.tops[0]
        xp.multiply(b.top_grads[0], 1 - y * y, out=b.bottom_grads[0])


@register
class BNLL(Elementwise):
    """y = log(1 + exp(x)), the binomial negative log likelihood (softplus)."""

    type = "BNLL"
    backward_tops = ()

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, y = b.bottoms[0], b.tops[0]
        y[...] = xp.maximum(x, 0) + log_1_plus_exp(xp, -xp.abs(x))

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        slope = xp.exp(xp.minimum(b.bottoms[0], 50))  # beyond 50 the slope is 1 in any precision
        slope /= slope + 1
        xp.multiply(b.top_grads[0], slope, out=b.bottom_grads[0])


@register
class Swish(Elementwise):
    """y = x * sigmoid(beta * x). (Ramachandran et al., 2017)"""

    type = "Swish"
    options_field = "swish_param"
    backward_bottoms = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        self.saved = {"sigmoid": Scratch(bottoms[0])}
        return [bottoms[0]]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, gate = b.bottoms[0], b.saved["sigmoid"]
        sigmoid(xp, x * x.dtype.type(self.options.beta), out=gate)
        xp.multiply(x, gate, out=b.tops[0])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        y, gate = b.tops[0], b.saved["sigmoid"]
        scaled = y * y.dtype.type(self.options.beta)
        xp.multiply(b.top_grads[0], scaled + gate * (1 - scaled), out=b.bottom_grads[0])


@register
class Clip(Elementwise):
    """y = min(max(x, min), max).

    In place the gradient passes everywhere: backward sees the values already clipped.
    """

    type = "Clip"
    options_field = "clip_param"
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        for bound in ("min", "max"):
            if not self.options.HasField(bound):
                raise self.error(f"clip_param has no {bound}", bound, remedy="state both min and max")
        return [bottoms[0]]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, y = b.bottoms[0], b.tops[0]
        xp.maximum(x, x.dtype.type(self.options.min), out=y)
        xp.minimum(y, x.dtype.type(self.options.max), out=y)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        x = b.bottoms[0]
        low, high = x.dtype.type(self.options.min), x.dtype.type(self.options.max)
        xp.multiply(b.top_grads[0], (x >= low) & (x <= high), out=b.bottom_grads[0])


@register
class Threshold(Elementwise):
    """y = 1 where x > threshold, else 0. It has no gradient."""

    type = "Threshold"
    options_field = "threshold_param"
    differentiable = False

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x = b.bottoms[0]
        b.tops[0][...] = x > x.dtype.type(self.options.threshold)


def _two_slopes(x: Array, below: Array) -> Array:
    """1 where x > 0, `below` elsewhere; sums of products, which are faster than a choice by element."""
    slopes = (x <= 0) * below
    slopes += x > 0
    return slopes


def log_1_plus_exp(xp: ModuleType, x: Array) -> Array:
    """log(1 + exp(x)) for x <= 0, where neither part can overflow."""
    value = xp.exp(x)
    value += 1
    return xp.log(value)


def sigmoid(xp: ModuleType, x: Array, out: Array) -> None:
    """Writes 1 / (1 + exp(-x)) into `out`, which may be `x`."""
    xp.multiply(x, 0.5, out=out)
    xp.tanh(out, out=out)
    out *= 0.5
    out += 0.5
