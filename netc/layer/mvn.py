"""MVN: every image, or every channel of one, brought to mean 0 and variance 1."""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Array, Buffers, Layer, Scratch, Shape, count
from netc.layer.reduction import squared_norms
from netc.layer.registry import register


@register
class MVN(Layer):
    """y = (x - mean) / (deviation + eps), mean and standard deviation taken over each channel of each image,
    or over each whole image with `across_channels`.

    Without `normalize_variance` y = x - mean. The deviation is the root of the mean square; eps is added to
    it, not to the variance. Shapes: (N, C, ...) to the same. As in Caffe the gradient takes eps for a part of
    the deviation, which is the derivative for an eps that is small beside it.
    """

    type = "MVN"
    options_field = "mvn_param"
    in_place = True
    backward_bottoms = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape = bottoms[0]
        own_axes = 1 if self.options.across_channels else 2
        self.rows = (count(shape[:own_axes]), count(shape[own_axes:]))
        self.weight = self.dtype.type(1 / max(1, self.rows[1]))
        if self.options.normalize_variance:
            self.saved = {"divisor": Scratch((self.rows[0],))}
        else:
            self.backward_tops = ()
        return [shape]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, y = b.bottoms[0].reshape(self.rows), b.tops[0].reshape(self.rows)
        xp.subtract(x, self._mean(x), out=y)
        if self.options.normalize_variance:
            divisor = xp.sqrt(squared_norms(xp, y) * self.weight)
            xp.add(divisor, divisor.dtype.type(self.options.eps), out=b.saved["divisor"])
            y /= b.saved["divisor"][:, None]

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dy: Array = b.top_grads[0]
        dx: Array = b.bottom_grads[0]
        dy, dx = dy.reshape(self.rows), dx.reshape(self.rows)
        mean = self._mean(dy)
        if not self.options.normalize_variance:
            xp.subtract(dy, mean, out=dx)
            return
        y = b.tops[0].reshape(self.rows)
        along = xp.matmul(y[:, None, :], dy[:, :, None])[:, 0] * self.weight
        xp.subtract(dy, y * along, out=dx)
        dx -= mean
        dx /= b.saved["divisor"][:, None]

    def _mean(self, rows: Array) -> Array:
        return rows.sum(axis=1, keepdims=True) * self.weight
