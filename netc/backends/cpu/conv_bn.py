"""A convolution and the batch normalisation that follows it, with its Scale and ReLU, as one form.

What lies between the two is the form's own: so a normalisation in place costs no copy of its bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np

from netc.backends.cpu.bf16 import BF16
from netc.backends.cpu.bn import FOLLOWERS, BatchNormForm, normalising
from netc.backends.cpu.bn_loop_form import BatchNormLoopForm
from netc.backends.cpu.chain import in_sequence
from netc.backends.cpu.conv import CONVOLUTIONS, make_convolution
from netc.backends.cpu.filters import FiltersForm, Layouts, ends_can_join, in_best_layout
from netc.backends.cpu.geometry import Geometry, convolution
from netc.backends.cpu.normalisation import Normalisation, scale_and_shift
from netc.backends.cpu.onednn import Attributes, Descriptor, Engine
from netc.backends.form import NHWC, Form, Maker, Mode, Run
from netc.backends.normalising import STATISTICS
from netc.backends.two_parts import both, part
from netc.graph import Node
from netc.layer import Array, Buffers, Scratch
from netc.layer.conv import SlidingFilters

BETWEEN: Final = "convolved"


class ConvolutionBatchNormForm(Form):
    """y = normalise(w * x + b), with the residual and the ReLU that belong to the normalisation."""

    def __init__(
        self, nodes: Sequence[Node], first: FiltersForm, second: BatchNormForm | BatchNormLoopForm
    ) -> None:
        super().__init__(nodes)
        self.parts = (first, second)
        self.writes_fresh = first.writes_fresh and second.writes_fresh
        self.first_params = len(first.params)
        self.bottom_layouts = (*(first.bottom_layouts or ()), *(second.bottom_layouts or ())[1:])
        self.top_layouts = second.top_layouts
        self.saved = {BETWEEN: Scratch((first.top.nbytes,), np.uint8), **both(first.saved, second.saved)}
        self.forward_workspace = both(first.forward_workspace, second.forward_workspace)
        self.backward_workspace = both(first.backward_workspace, second.backward_workspace)
        self.backward_bottoms, self.backward_tops = first.backward_bottoms, second.backward_tops
        self.variant = f"{first.variant}; {second.variant}"

    def forward(self, b: Buffers) -> Run:
        first, second = self._buffers(b)
        return in_sequence([self.parts[0].forward(first), self.parts[1].forward(second)])

    def backward(self, b: Buffers) -> Run:
        first, second = self._buffers(b)
        first.bottom_grads, second.top_grads = b.bottom_grads[:1], b.top_grads
        # The normalisation's gradient takes the place of the one that it is made from.
        first.top_grads, second.bottom_grads = b.top_grads, [*b.top_grads, *b.bottom_grads[1:]]
        return in_sequence([self.parts[1].backward(second), self.parts[0].backward(first)])

    def prepare(self, b: Buffers) -> Run | None:
        return self.parts[0].prepare(self._buffers(b)[0])

    def flops(self) -> int:
        return self.parts[0].flops()

    def _convolved(self, memory: Array) -> Array:
        """What lies between the parts, as the first one's top."""
        if self.parts[0].top_layouts != (NHWC,):
            return memory
        images, channels, height, width = self.parts[0].geometry.top
        return memory.view(np.float32).reshape(images, height, width, channels).transpose(0, 3, 1, 2)

    def _buffers(self, b: Buffers) -> tuple[Buffers, Buffers]:
        """Each part's own."""
        between, cut = [self._convolved(b.saved[BETWEEN])], self.first_params
        first = Buffers(b.bottoms[:1], between, b.params[:cut], part(0, b.saved))
        second = Buffers([*between, *b.bottoms[1:]], b.tops, b.params[cut:], part(1, b.saved))
        first.param_grads, second.param_grads = b.param_grads[:cut], b.param_grads[cut:]
        first.workspace, second.workspace = part(0, b.workspace), part(1, b.workspace)
        return first, second


class GivenStatisticsForm(FiltersForm):
    """The same where nothing learns and the statistics are given: normalised = factor (w * x + b) + summand
    for each channel."""

    def __init__(
        self,
        nodes: Sequence[Node],
        mode: Mode,
        engine: Engine,
        what: Normalisation,
        geometry: Geometry,
        layouts: Layouts,
    ) -> None:
        self.what = what
        self.channels = Descriptor.strided(engine, (1, geometry.top[1], *[1] * (len(geometry.top) - 2)))
        self.factor, self.summand = (np.zeros(geometry.top[1], np.float32) for _ in range(2))
        super().__init__(nodes, mode, engine, "convolution", geometry, layouts, packs_once=mode.holds)

    def take_statistics(self, b: Buffers) -> None:
        """Makes factor and summand of the parameters."""
        params = b.params[len(self.node.params) :]
        scale, shift = (
            None if place is None else params[place] for place in (self.what.scale, self.what.shift)
        )
        eps = self.what.layer.options.eps
        scale_and_shift(params[:STATISTICS], eps, scale, shift, self.factor, self.summand)


class ScaledConvolutionForm(GivenStatisticsForm):
    """Each pass applies factor and summand to the results on the way out of the convolution."""

    def _attributes(self) -> Attributes:
        return Attributes(self.engine, factor=self.channels, slope=self.slope)

    def _after(self) -> list[tuple[str, Descriptor]]:
        return [("factor", self.channels), ("summand", self.channels)]

    def forward(self, b: Buffers) -> Run:
        arrays = {**self.forward_arrays(b), "factor": self.factor, "summand": self.summand}
        return in_sequence([partial(self.take_statistics, b), self.bind_forward(arrays, b.workspace)])


class FoldedConvolutionForm(GivenStatisticsForm):
    """Where parameters are held, they are folded into the filters and a bias once: (factor w) * x +
    (factor b + summand)."""

    def _is_biased(self) -> bool:
        return True

    def prepare(self, b: Buffers) -> Run:
        return partial(self._fold, b)

    def _fold(self, b: Buffers) -> None:
        self.take_statistics(b)
        weight = b.params[0]
        if len(self.node.params) > 1:
            self.summand += self.factor * b.params[1]
        assert self.packed is not None, "folded weights are packed once"
        folded = weight * self.factor.reshape(-1, *[1] * (weight.ndim - 1))
        self.pack(folded, self.packed)()

    def bias_of(self, b: Buffers) -> Array:
        return self.summand


def make_convolution_batch_norm(nodes: Sequence[Node], mode: Mode, engine: Engine) -> Form | None:
    """The form of a convolution and what normalises it."""
    what, layer = Normalisation.of(nodes[1:]), nodes[0].layer
    assert isinstance(layer, SlidingFilters)
    if what is None or layer.axis != 1 or len(nodes[0].outputs[0].shape) > 5:
        return None
    if not mode.backward and not what.layer.from_batch and ends_can_join(nodes, mode):
        folds = mode.holds and mode.math != BF16  # folded filters would be rounded to other numbers
        kind = FoldedConvolutionForm if folds else ScaledConvolutionForm
        make = partial(kind, nodes, mode, engine, what)
        if form := in_best_layout(convolution, nodes, mode, engine, make):
            return form
        if what.adds:  # a sum after the shorter chain takes less
            return None
    first = make_convolution(nodes[:1], mode, engine)
    if not isinstance(first, FiltersForm):
        return None
    (layout,) = first.top_layouts or ()
    second = normalising(nodes[1:], mode, engine, what, layout, in_place=False)
    return None if second is None else ConvolutionBatchNormForm(nodes, first, second)


FORMS: dict[tuple[str, ...], Maker] = {
    (type_, "BatchNorm", *followers): make_convolution_batch_norm
    for type_ in CONVOLUTIONS
    for followers in FOLLOWERS
}
