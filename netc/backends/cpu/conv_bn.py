"""A convolution and the batch normalisation that follows it, with its Scale and ReLU, as one form.

What lies between the two is the form's own: so a normalisation in place costs no copy of its bottom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from netc.backends.cpu.bn import BatchNormForm, Normalisation
from netc.backends.cpu.chain import in_sequence
from netc.backends.cpu.conv import CONVOLUTIONS, make_convolution
from netc.backends.cpu.filters import FiltersForm
from netc.backends.cpu.onednn import Engine, Refused
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Array, Buffers, Scratch

BETWEEN: Final = "convolved"


class ConvolutionBatchNormForm(Form):
    """y = normalise(w * x + b)."""

    def __init__(self, nodes: Sequence[Node], first: FiltersForm, second: BatchNormForm) -> None:
        super().__init__(nodes)
        self.parts = (first, second)
        self.first_params = len(first.params)
        self.bottom_layouts, self.top_layouts = first.bottom_layouts, second.top_layouts
        self.saved = {BETWEEN: Scratch((first.top.nbytes,), np.uint8), **_both(first.saved, second.saved)}
        self.forward_workspace = _both(first.forward_workspace, second.forward_workspace)
        self.backward_workspace = _both(first.backward_workspace, second.backward_workspace)
        self.backward_bottoms, self.backward_tops = first.backward_bottoms, second.backward_tops
        self.variant = f"{first.variant}; {second.variant}"

    def forward(self, b: Buffers) -> Run:
        first, second = self._buffers(b)
        return in_sequence([self.parts[0].forward(first), self.parts[1].forward(second)])

    def backward(self, b: Buffers) -> Run:
        first, second = self._buffers(b)
        first.bottom_grads, second.top_grads = b.bottom_grads, b.top_grads
        # The normalisation's gradient takes the place of the one that it is made from.
        first.top_grads = second.bottom_grads = b.top_grads
        return in_sequence([self.parts[1].backward(second), self.parts[0].backward(first)])

    def flops(self) -> int:
        return self.parts[0].flops()

    def _buffers(self, b: Buffers) -> tuple[Buffers, Buffers]:
        """Each part's own."""
        between, cut = [b.saved[BETWEEN]], self.first_params
        first = Buffers(b.bottoms, between, b.params[:cut], _part(0, b.saved))
        second = Buffers(between, b.tops, b.params[cut:], _part(1, b.saved))
        first.param_grads, second.param_grads = b.param_grads[:cut], b.param_grads[cut:]
        first.workspace, second.workspace = _part(0, b.workspace), _part(1, b.workspace)
        return first, second


def _both(first: Mapping[str, Scratch], second: Mapping[str, Scratch]) -> dict[str, Scratch]:
    """The arrays of both parts, each under its part's number."""
    return {
        f"{i} {name}": scratch for i, part in enumerate((first, second)) for name, scratch in part.items()
    }


def _part(number: int, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays of one part, by its own names."""
    prefix = f"{number} "
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def make_convolution_batch_norm(nodes: Sequence[Node], mode: Mode, engine: Engine) -> Form | None:
    """The form of a convolution and what normalises it."""
    what = Normalisation.of(nodes[1:])
    first = make_convolution(nodes[:1], mode, engine)
    if what is None or not isinstance(first, FiltersForm) or len(nodes[0].outputs[0].shape) > 5:
        return None
    (layout,) = first.top_layouts or ()
    try:
        second = BatchNormForm(nodes[1:], mode, engine, what, layout, in_place=False)
    except Refused:
        return None
    return None if second.is_slow else ConvolutionBatchNormForm(nodes, first, second)


FORMS: dict[tuple[str, ...], Maker] = {
    (convolution, "BatchNorm", *followers): make_convolution_batch_norm
    for convolution in CONVOLUTIONS
    for followers in ((), ("Scale",), ("ReLU",), ("Scale", "ReLU"))
}
