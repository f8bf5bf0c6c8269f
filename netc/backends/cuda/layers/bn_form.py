"""The form that normalises batches on the device: BatchNorm or BN, the Scale, sum and ReLU that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from netc.backends.cuda.device import Device, Memory
from netc.backends.cuda.device.form import fits, lay_out_alike
from netc.backends.cuda.launching import in_order
from netc.backends.cuda.layers import bn
from netc.backends.cuda.layers.bn import Gradients, Running
from netc.backends.form import NHWC, Form, Maker, Mode, Run
from netc.backends.normalising import factor_and_bias, is_sum_of_two
from netc.graph import Node, Value
from netc.layer import Array, Buffers, Layer, Scratch
from netc.layer.bn import BN, SegNetBN
from netc.layer.norm import BatchNorm


@dataclass(frozen=True)
class Plan:
    """What a chain's layers ask for.

    factor, bias, mean, variance, weight: the numbers of these parameters among the chain's; from_batch:
    whether the statistics are the batch's; batch_gradient: whether the gradient is that of batch statistics;
    learns: whether factor and bias get gradients; keep, add, unbias: of `Running`; adds: whether a residual
    is added; slope: of the ReLU, 1 for none.
    """

    cells: tuple[int, ...]
    eps: float
    from_batch: bool
    batch_gradient: bool
    factor: int | None
    bias: int | None
    mean: int | None
    variance: int | None
    weight: int | None
    learns: bool = True
    keep: float = 0
    add: float = 1
    unbias: float = 1
    adds: bool = False
    slope: float = 1


def plan_of(nodes: Sequence[Node]) -> Plan | None:
    """None where no kernel does what the layers mean."""
    layers = {node.type: node.layer for node in nodes}
    relu, added = layers.get("ReLU"), layers.get("Eltwise")
    slope = relu.options.negative_slope if relu else 1
    if (
        not fits(nodes)
        or (added and not is_sum_of_two(added))
        or (relu and not _side_is_known(nodes[-1], added is not None))
    ):
        return None
    first = nodes[0].layer
    if isinstance(first, BatchNorm):
        plan = _plan_of_batch_norm(first, layers.get("Scale"))
    elif isinstance(first, SegNetBN):
        plan = _plan_of_segnet(first)
    else:
        assert isinstance(first, BN)
        plan = _plan_of_bn(first)
    return plan and replace(plan, slope=slope, adds=added is not None)


def _side_is_known(relu: Node, from_y: bool) -> bool:
    """Whether x, or y where there is a residual, tells backward what a ReLU's own backward is told.

    In place that reads what later layers left in its memory, as in Caffe; all but dropout may change sides.
    """
    layer, y = relu.layer, relu.outputs[0]
    if layer.options.negative_slope < 0:
        return False
    if not layer.runs_in_place:
        return not (from_y and y.is_overwritten())
    return from_y or not _changes_side(y)


def _changes_side(value: Value) -> bool:
    """Whether what later layers write in place may be above 0 elsewhere, where they pass a gradient."""
    later = [output for node in value.consumers for output in node.outputs if output.memory is value.memory]
    return any(
        not (output.producer.layer.shares_data or output.producer.type == "Dropout") or _changes_side(output)
        for output in later
    )


def _plan_of_batch_norm(layer: BatchNorm, scale: Layer | None) -> Plan | None:
    places = factor_and_bias(layer, scale)
    if places is None:
        return None
    cells = layer.cells[0] * layer.cells[2]
    return Plan(
        layer.cells,
        layer.options.eps,
        layer.from_batch,
        layer.from_batch,
        *places,
        mean=0,
        variance=1,
        weight=2,
        keep=layer.options.moving_average_fraction,
        unbias=cells / (cells - 1) if cells > 1 else 1,
    )


def _plan_of_bn(layer: BN) -> Plan:
    momentum, frozen = layer.options.momentum, layer.options.frozen
    return Plan(
        layer.cells,
        layer.eps,
        layer.from_batch,
        not frozen,  # in TEST the gradient is that of batch statistics all the same
        factor=0,
        bias=1,
        mean=2,
        variance=3,
        weight=None,
        learns=not frozen,
        keep=momentum,
        add=1 - momentum,
    )


def _plan_of_segnet(layer: SegNetBN) -> Plan | None:
    """SegNet's without tops for its statistics."""
    if not layer.learns or len(layer.spec.top) > 1:
        return None
    return Plan(layer.cells, layer.eps, True, True, 0, 1, None, None, None)


@dataclass(frozen=True)
class Parameters:
    """Where a normalisation's parameters lie, those that it has."""

    factor: Memory | None
    bias: Memory | None
    running: Running | None

    @classmethod
    def of(cls, plan: Plan, params: Sequence[Array], device: Device) -> Parameters:
        """Of those of a chain that begins with the normalisation."""
        factor, bias, mean, variance, weight = (
            None if number is None else device.memory_of(params[number])
            for number in (plan.factor, plan.bias, plan.mean, plan.variance, plan.weight)
        )
        running = None
        if mean is not None and variance is not None:
            running = Running(mean, variance, weight, plan.keep, plan.add, plan.unbias)
        return cls(factor, bias, running)


class BatchNormForm(Form):
    """One normalisation, its factor and bias, a residual and a ReLU.

    apart: whether y has memory of its own, whatever the graph says; moment_parts: in how many parts of a
    channel somebody else has left the batch's moments in the workspace "partial", 0 where nobody has.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        plan: Plan,
        mode: Mode,
        device: Device,
        apart: bool = False,
        moment_parts: int = 0,
    ) -> None:
        super().__init__(nodes)
        self.device, self.plan = device, plan
        images, channels, cells = plan.cells
        lay_out_alike(self, mode.layout)
        if mode.layout == NHWC and len(self.inputs[0].shape) == 4:
            images, cells = images * cells, 1
        self.cells = bn.cells_of(images, channels, cells, device.properties.processors)
        self.variant = "bn" + (" residual" if plan.adds else "") + (" relu" if plan.slope != 1 else "")
        self.reads_y = plan.adds and plan.slope != 1
        self.moment_parts, parts = moment_parts, self.cells.parts
        learned = [self.param_needs_grad[i] for i in (plan.factor, plan.bias) if i is not None]
        self.learns = plan.learns and any(learned)
        self.reduces_back = self.learns or plan.batch_gradient
        # The normalised values, and the side of the ReLU, are worked out again from x.
        reads_x = plan.batch_gradient or (plan.slope != 1 and not plan.adds)
        if plan.learns and plan.factor is not None:
            reads_x = reads_x or self.param_needs_grad[plan.factor]
        self.reads_x = reads_x and mode.backward and self.needs_backward
        in_place = not apart and self.outputs[0].memory is self.inputs[0].memory
        self.saved = {"channels": Scratch((channels, bn.CHANNEL))}
        if self.reads_x and in_place:
            self.saved["x"] = Scratch(self.inputs[0].shape)
        self.backward_bottoms = (0,) if self.reads_x and not in_place else ()
        self.backward_tops = (0,) if self.reads_y else ()
        if plan.from_batch:
            given = (channels, moment_parts or parts, bn.NUMBERS["Moments"])
            self.forward_workspace = {"partial": Scratch(given)}
        self.backward_workspace = {
            "partial": Scratch((channels, parts, bn.NUMBERS["Gradients"])),
            "slopes": Scratch((channels, bn.SLOPES)),
        }

    def forward(self, b: Buffers) -> Run | None:
        device, plan, cells = self.device, self.plan, self.cells
        x, y = device.memory_of(b.bottoms[0]), device.memory_of(b.tops[0])
        channels = device.memory_of(b.saved["channels"])
        kept = device.memory_of(b.saved["x"]) if "x" in b.saved else None
        partial = device.memory_of(b.workspace["partial"]) if plan.from_batch else None
        given = Parameters.of(plan, b.params, device)
        residual = device.memory_of(b.bottoms[1]) if plan.adds else None
        reduction = None
        if partial is not None and not self.moment_parts:
            reduction = bn.reduce(device, "Moments", cells, x, partial)
        merged = replace(cells, parts=self.moment_parts or cells.parts)
        return in_order(
            reduction,
            bn.finish(device, merged, partial, plan.eps, given.running, given.factor, given.bias, channels),
            bn.apply(device, cells, x, channels, plan.slope, y, kept, residual),
        )

    def backward(self, b: Buffers) -> Run | None:
        device, plan, cells = self.device, self.plan, self.cells
        dx, dresidual = (self._param([*b.bottom_grads, None], i) for i in (0, 1))
        numbers = (plan.factor, plan.bias) if plan.learns else (None, None)
        dfactor, dbias = (self._param(b.param_grads, number) for number in numbers)
        if all(gradient is None for gradient in (dx, dresidual, dfactor, dbias)):
            return None
        x = device.memory_of(b.saved["x"] if "x" in b.saved else b.bottoms[0]) if self.reads_x else None
        y = device.memory_of(b.tops[0]) if self.reads_y else None
        dy, channels = device.memory_of(b.top_grads[0]), device.memory_of(b.saved["channels"])
        gradients, slopes = Gradients(dy, channels, plan.slope, y), device.memory_of(b.workspace["slopes"])
        runs: list[Run] = []
        sums = None
        if self.reduces_back:
            sums = device.memory_of(b.workspace["partial"])
            runs.append(bn.reduce(device, "Gradients", cells, x, sums, gradients))
        runs.append(
            bn.finish_backward(device, cells, sums, plan.batch_gradient, channels, dfactor, dbias, slopes)
        )
        if dx is not None or dresidual is not None:
            runs.append(bn.apply_backward(device, cells, x, gradients, slopes, dx, dresidual))
        return in_order(*runs)

    def _param(self, arrays: Sequence[object | None], number: int | None) -> Memory | None:
        """One of the gradients; None where there is none."""
        array = None if number is None else arrays[number]
        return None if array is None else self.device.memory_of(array)


def make_batch_norm(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    """None for a Scale that is not one factor for each channel, and SegNet's with its statistics as tops."""
    plan = plan_of(nodes)
    return None if plan is None else BatchNormForm(nodes, plan, mode, device)


FORMS: dict[tuple[str, ...], Maker] = {
    ("BatchNorm",): make_batch_norm,
    ("BatchNorm", "ReLU"): make_batch_norm,
    ("BatchNorm", "Scale"): make_batch_norm,
    ("BatchNorm", "Scale", "ReLU"): make_batch_norm,
    ("BatchNorm", "Scale", "Eltwise"): make_batch_norm,
    ("BatchNorm", "Scale", "Eltwise", "ReLU"): make_batch_norm,
    ("BN",): make_batch_norm,
    ("BN", "ReLU"): make_batch_norm,
}
