"""The forms of a convolution with what follows it: a batch normalisation, a sum with a residual, a ReLU.

Where the statistics are given and nothing learns, all of it happens to the convolution's sums before they are
stored. Elsewhere the convolution and the normalisation run one after the other; what lies between them is the
form's own, and the batch's moments come of the convolution's sums where its kernel leaves them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Final

from netc.backends.cuda.convolution.form import Convolution, shape_of
from netc.backends.cuda.convolution.shape import ConvShape
from netc.backends.cuda.convolution.work import Images
from netc.backends.cuda.device import Device, Memory
from netc.backends.cuda.device.form import fits
from netc.backends.cuda.launching import in_order
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES
from netc.backends.cuda.layers import bn, bn_form
from netc.backends.cuda.layers.bn_form import BatchNormForm, Parameters, Plan, plan_of
from netc.backends.form import NO_SCRATCH, Form, Maker, Mode, Run
from netc.backends.normalising import is_sum_of_two
from netc.backends.two_parts import both, part
from netc.graph import Node
from netc.layer import Buffers, Scratch
from netc.layer.base import count

BETWEEN: Final = "convolved"


class FinishedConvolution(Convolution):
    """y = relu(factor (w * x) + bias + residual), without a backward pass.

    plan: of the normalisation by given statistics, None for none. Factor and bias are worked out from the
    parameters in every pass, but once where these are held. The filters are those of the net: no number of
    them is rounded otherwise than without the normalisation, in any math mode.
    """

    def __init__(
        self, nodes: Sequence[Node], mode: Mode, device: Device, shape: ConvShape, plan: Plan | None
    ) -> None:
        super().__init__(nodes, mode, device, shape)
        self.plan, self.holds = plan, mode.holds
        self.adds = len(self.inputs) > 1
        if self.adds:
            self.bottom_layouts = [self.bottom_layouts[0], self.top_layout]
        named = {"bn": plan is not None, "residual": self.adds, "ReLU": self._has_relu}
        self.variant = ", ".join([self._forward_kernel.family, *(name for name in named if named[name])])
        self.backward_bottoms, self.backward_tops, self.backward_workspace = (), (), NO_SCRATCH

    @cached_property
    def _lines(self) -> tuple[Memory, Memory]:
        """The factors and the biases, which stay from one pass to the next."""
        nbytes = self.shape.k * FLOAT_BYTES
        self._kept = self.device.allocate_array(2 * nbytes, "folded normalisation")
        memory = self.device.memory_of(self._kept)
        return memory.part(0, nbytes), memory.part(nbytes, nbytes)

    def _fold(self, b: Buffers) -> Run | None:
        """What makes them."""
        if self.plan is None:
            return None
        own = len(self.node.params)
        shift = self.memory(b.params[1]) if self.has_bias else None
        given = Parameters.of(self.plan, b.params[own:], self.device)
        assert given.running is not None
        eps, channels = self.plan.eps, self.shape.k
        return bn.fold(
            self.device, channels, eps, given.running, given.factor, given.bias, shift, self._lines
        )

    def prepare(self, b: Buffers) -> Run | None:
        return self._fold(b) if self.holds else None

    def forward(self, b: Buffers) -> Run | None:
        factor, bias = (None, self.memory(b.params[1]) if self.has_bias else None)
        if self.plan is not None:
            factor, bias = self._lines
        work = Images(
            self.memory(b.bottoms[0]),
            self.memory(b.params[0]),
            self.memory(b.tops[0]),
            bias,
            self.slope,
            self.memory_if(b.workspace.get("floats")),
            factor=factor,
            residual=self.memory(b.bottoms[1]) if self.adds else None,
        )
        return in_order(None if self.holds else self._fold(b), self.bind_forward(work))


class ConvolutionBatchNorm(Form):
    """y = normalise(w * x + b), with the residual and the ReLU that belong to the normalisation."""

    def __init__(self, nodes: Sequence[Node], first: Convolution, second: BatchNormForm) -> None:
        super().__init__(nodes)
        self.first, self.second = first, second
        self.own_params = len(first.params)
        self.bottom_layouts = [*(first.bottom_layouts or ()), *(second.bottom_layouts or ())[1:]]
        self.top_layouts = second.top_layouts
        between = {BETWEEN: Scratch((count(first.outputs[0].shape),))}
        self.saved = {**(between if second.reads_x else {}), **both(first.saved, second.saved)}
        self.forward_workspace = {
            **({} if second.reads_x else between),
            **both(first.forward_workspace, second.forward_workspace),
        }
        self.backward_workspace = both(first.backward_workspace, second.backward_workspace)
        self.backward_bottoms = () if first.backward_bottoms == () else (0,)
        self.backward_tops = second.backward_tops
        moments = " with moments" if second.moment_parts else ""
        self.variant = f"{first.variant}{moments}; {second.variant}"

    def forward(self, b: Buffers) -> Run | None:
        first, second = self._buffers(b)
        form, memory = self.first, self.first.memory
        work = Images(
            memory(first.bottoms[0]),
            memory(first.params[0]),
            memory(first.tops[0]),
            memory(first.params[1]) if form.has_bias else None,
            workspace=form.memory_if(first.workspace.get("floats")),
            moments=memory(second.workspace["partial"]) if self.second.moment_parts else None,
        )
        return in_order(form.bind_forward(work), self.second.forward(second))

    def backward(self, b: Buffers) -> Run | None:
        first, second = self._buffers(b)
        first.bottom_grads, second.top_grads = b.bottom_grads[:1], b.top_grads
        # The normalisation's gradient takes the place of the one that it is made from.
        first.top_grads, second.bottom_grads = b.top_grads, [*b.top_grads, *b.bottom_grads[1:]]
        return in_order(self.second.backward(second), self.first.backward(first))

    def flops(self) -> int:
        return self.first.flops()

    def _buffers(self, b: Buffers) -> tuple[Buffers, Buffers]:
        """Each part's own."""
        between = [b.saved[BETWEEN] if BETWEEN in b.saved else b.workspace.get(BETWEEN)]
        cut = self.own_params
        first = Buffers(b.bottoms[:1], between, b.params[:cut], part(0, b.saved))
        second = Buffers([*between, *b.bottoms[1:]], b.tops, b.params[cut:], part(1, b.saved))
        first.param_grads, second.param_grads = b.param_grads[:cut], b.param_grads[cut:]
        first.workspace, second.workspace = part(0, b.workspace), part(1, b.workspace)
        return first, second


def make_convolution_batch_norm(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    """None where the normalisation has no kernel, or is not over the convolution's channels."""
    shape, plan = _shape_of_first(nodes), plan_of(nodes[1:])
    if shape is None or plan is None or nodes[0].layer.axis != 1:  # type: ignore[attr-defined]
        return None
    if not plan.from_batch and not _learns(nodes, mode):
        return FinishedConvolution(nodes, mode, device, shape, plan)
    first = Convolution(nodes[:1], mode, device, shape)
    parts = first.moment_parts if plan.from_batch else 0
    between = replace(mode, layout=first.top_layout)
    second = BatchNormForm(nodes[1:], plan, between, device, apart=True, moment_parts=parts)
    return ConvolutionBatchNorm(nodes, first, second)


def make_convolution_sum(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    """None where something learns, for which a sum after the convolution is as good."""
    shape = _shape_of_first(nodes)
    if shape is None or not is_sum_of_two(nodes[1].layer) or _learns(nodes, mode):
        return None
    return FinishedConvolution(nodes, mode, device, shape, None)


def _shape_of_first(nodes: Sequence[Node]) -> ConvShape | None:
    """The convolution's sizes; None where kernels cannot run the chain, or there are several bottoms."""
    shape = shape_of(nodes[0])
    return shape if shape and shape.fits and fits(nodes) and len(nodes[0].inputs) == 1 else None


def _learns(nodes: Sequence[Node], mode: Mode) -> bool:
    return mode.backward and any(node.needs_backward for node in nodes)


TYPES: Final = ("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")
FORMS: dict[tuple[str, ...], Maker] = {
    **{
        (type_, *normalisation): make_convolution_batch_norm
        for type_ in TYPES
        for normalisation in bn_form.FORMS
    },
    **{(type_, "Eltwise", *relu): make_convolution_sum for type_ in TYPES for relu in ((), ("ReLU",))},
}
