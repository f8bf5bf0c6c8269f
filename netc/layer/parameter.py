"""Parameter: a top that is learned."""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Arity, Buffers, Layer, ParamBlob, Shape
from netc.layer.registry import register


@register
class Parameter(Layer):
    """The top is the layer's own parameter, of shape `parameter_param { shape }`: the same memory, so that
    what is written into either is in both.

    It starts at 0. Its gradient is the top's; several backward passes add up, where Caffe keeps the last.
    """

    type = "Parameter"
    options_field = "parameter_param"
    bottoms = Arity(0)
    tops_are_params = True
    backward_bottoms = ()
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape = tuple(self.options.shape.dim)
        if any(size < 0 for size in shape):
            raise self.error("a shape holds no negative number", "shape", found=shape)
        self.params = [ParamBlob(shape)]
        return [shape]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        """Nothing: the top is the parameter's memory."""

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        if b.param_grads[0] is not None:
            b.param_grads[0] += b.top_grads[0]
