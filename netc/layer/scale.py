"""Scale and Bias: a factor or a summand per channel (or per cell of any run of axes), learned or from a
second bottom."""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Arity, Array, Buffers, Layer, ParamBlob, Scratch, Shape, count
from netc.layer.registry import register
from netc.proto import netc_pb2 as pb


class Broadcasting(Layer):
    """Bottom 0 meets a smaller operand: bottom 1 where there is one, else a parameter.

    The operand covers the axes `axis`, axis + 1, ... of bottom 0: as many as bottom 1 has, or `num_axes` of a
    parameter (-1: all from `axis` on, 0: one number for all). Bottom 0 is seen as (outer, operand, inner).
    """

    bottoms = Arity(1, 2)
    in_place = True
    backward_tops = ()

    axes: tuple[int, int, int]  # sizes of outer, operand, inner
    operand: Shape

    def fit(self, bottoms: list[Shape]) -> None:
        """Sets `operand` and `axes`. Raises NetcError where the operand does not fit bottom 0."""
        shape = bottoms[0]
        if len(bottoms) == 2:
            operand = bottoms[1]
            axis = self.canonical_axis(self.options.axis, len(shape)) if operand else 0
            if shape[axis : axis + len(operand)] != operand:
                raise self.error(
                    f"the shape of bottom 1 must be that of bottom 0 from axis {axis} on",
                    "axis",
                    blob=self.spec.bottom[1],
                    expected=shape[axis : axis + len(operand)],
                    found=operand,
                )
        else:
            axis, number = self.canonical_axis(self.options.axis, len(shape)), self.options.num_axes
            if not -1 <= number <= len(shape) - axis:
                raise self.error(
                    f"bottom 0 has {len(shape) - axis} axes from axis {axis} on",
                    "num_axes",
                    expected=f"-1 to {len(shape) - axis}",
                    found=number,
                )
            operand = shape[axis:] if number == -1 else shape[axis : axis + number]
        self.operand = operand
        self.axes = (count(shape[:axis]), count(operand), count(shape[axis + len(operand) :]))

    def cells(self, x: Array) -> Array:
        """Bottom 0, its top or their gradients as (outer, operand, inner)."""
        return x.reshape(self.axes)

    def spread(self, operand: Array) -> Array:
        """The operand in the form that broadcasts over `cells`."""
        return operand.reshape(self.axes[1], 1)

    def summed(self, xp: ModuleType, dy: Array, x: Array | None = None) -> Array:
        """The sum of dy (times x) over the cells that share a number of the operand, in the operand's
        shape."""
        if x is None:
            sums = self.cells(dy).sum(axis=(0, 2))
        else:
            sums = xp.einsum("oki,oki->ok", self.cells(dy), self.cells(x)).sum(axis=0)
        return sums.reshape(self.operand)


@register
class Bias(Broadcasting):
    """y = x + b, b broadcast over the axes that it does not cover (see `Broadcasting`)."""

    type = "Bias"
    options_field = "bias_param"
    backward_bottoms = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        self.fit(bottoms)
        self.params = [ParamBlob(self.operand, self.option("filler"))] if len(bottoms) == 1 else []
        return [bottoms[0]]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        bias = b.bottoms[1] if len(b.bottoms) == 2 else b.params[0]
        xp.add(self.cells(b.bottoms[0]), self.spread(bias), out=self.cells(b.tops[0]))

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dy, dx = b.top_grads[0], b.bottom_grads[0]
        if len(b.bottom_grads) == 2:
            if b.bottom_grads[1] is not None:
                b.bottom_grads[1][...] = self.summed(xp, dy)
        elif b.param_grads[0] is not None:
            b.param_grads[0] += self.summed(xp, dy)
        if dx is not None and not self.runs_in_place:
            dx[...] = dy


@register
class Scale(Broadcasting):
    """y = s x (+ b with `bias_term`), both broadcast over the axes that they do not cover (see
    `Broadcasting`).

    Parameters: s unless it is bottom 1, then b. Without a `filler` s starts as 1.
    """

    type = "Scale"
    options_field = "scale_param"

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        self.fit(bottoms)
        self.params = []
        if len(bottoms) == 1:
            identity = pb.FillerParameter(type="constant", value=1)
            self.params.append(ParamBlob(self.operand, self.option("filler", identity)))
        if self.options.bias_term:
            self.params.append(ParamBlob(self.operand, self.option("bias_filler")))
        # In place the bottom is gone by the time its product with the top's gradient is wanted.
        if self.runs_in_place:
            self.saved = {"bottom": Scratch(bottoms[0])}
            self.backward_bottoms = (1,)
        elif count(self.operand) != count(bottoms[0]):
            self.leftovers = (0,)  # Caffe works out the product of x and dy there
        return [bottoms[0]]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        scale = b.bottoms[1] if len(b.bottoms) == 2 else b.params[0]
        if self.saved:
            b.saved["bottom"][...] = b.bottoms[0]
        y = self.cells(b.tops[0])
        xp.multiply(self.cells(b.bottoms[0]), self.spread(scale), out=y)
        if self.options.bias_term:
            y += self.spread(b.params[-1])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dy, x = b.top_grads[0], b.saved["bottom"] if self.saved else b.bottoms[0]
        if self.options.bias_term and b.param_grads[-1] is not None:
            b.param_grads[-1] += self.summed(xp, dy)  # type: ignore[operator]
        given = len(b.bottoms) == 2
        scale, dscale = (b.bottoms[1], b.bottom_grads[1]) if given else (b.params[0], b.param_grads[0])
        if dscale is not None:
            dscale[...] = self.summed(xp, dy, x) + (0 if given else dscale)
            if 0 in b.leftovers:
                xp.multiply(dy, x, out=b.leftovers[0])
        if b.bottom_grads[0] is not None:
            xp.multiply(self.cells(dy), self.spread(scale), out=self.cells(b.bottom_grads[0]))
