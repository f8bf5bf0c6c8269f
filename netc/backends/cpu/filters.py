"""What convolution and deconvolution on oneDNN share: filters, a bias, and a ReLU that may follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from netc.backends.cpu.activation import add_relu_backward, relu_can_end, slope_of
from netc.backends.cpu.bf16 import BF16, factor_types, rounding_for, variant_of
from netc.backends.cpu.chain import fits, in_sequence
from netc.backends.cpu.factors import Factors, fastest
from netc.backends.cpu.filter_parts import Part, data_part, filters_part, forward_part, merged
from netc.backends.cpu.first_conv import first_filters
from netc.backends.cpu.geometry import Geometry
from netc.backends.cpu.layout import IMAGE_CHANNELS, WASTE, descriptor_of, filled, layout_for
from netc.backends.cpu.onednn import (
    Attributes,
    Descriptor,
    Engine,
    PrimitiveDescriptor,
    Refused,
    Routine,
    describe,
    kinds,
)
from netc.backends.cpu.routine_form import RoutineForm
from netc.backends.cpu.sampling import CELL_GRADIENTS, CELLS, Sampling
from netc.backends.form import BLOCKED, NHWC, PLAIN, Mode, Run
from netc.backends.normalising import is_sum_of_two
from netc.graph import Node
from netc.layer import Array, Buffers
from netc.layer.conv import SlidingFilters
from netc.passes.memory import ALIGNMENT


@dataclass(frozen=True)
class Layouts:
    """How bottom and top lie. inside: what plain ones are brought into for a primitive; None: its choice."""

    bottom: str
    top: str
    inside: str | None = None


class FiltersForm(RoutineForm):
    """y = relu(w * x + b + residual), the last and the ReLU where the chain has them.

    The weights stay in Caffe's order: every pass reorders them, and their gradients on the way into the sum.
    With `packs_once` only `prepare` reorders them, into memory of the form's own: it must run before the
    first pass, and whenever the weights have changed. A plain bottom or top goes through whatever layout
    suits the primitive, which is faster than computing on it.
    """

    writes_fresh = True

    def __init__(
        self,
        nodes: Sequence[Node],
        mode: Mode,
        engine: Engine,
        kind: str,
        geometry: Geometry,
        layouts: Layouts,
        packs_once: bool = False,
    ) -> None:
        super().__init__(nodes, engine)
        self.math = mode.math
        self.rounding = rounding_for(mode.math)
        self.forward_routine, self.backward_routine = (Routine(engine, self.rounding) for _ in range(2))
        channels_last = kind == "convolution" and layouts == Layouts(NHWC, NHWC)
        self.sampling = Sampling.of(geometry) if channels_last else None
        channels_last = channels_last and self.math != BF16  # parts multiply floats
        self.geometry = geometry = self.sampling.geometry if self.sampling else geometry
        self.kind = kind
        self.algorithm = kinds.CONVOLUTION_DIRECT if kind == "convolution" else kinds.DECONVOLUTION_DIRECT
        self.slope = self._slope()
        self.biased = self._is_biased()
        self.adds = len(self.inputs) > 1
        self.bottom_layouts = (layouts.bottom, layouts.top)[: len(self.inputs)]
        self.top_layouts = (layouts.top,)
        self._describe_operands(layouts)
        self.primitive = fastest(self.factors, partial(self._describe_forward, mode.backward))
        self.forward_part = (
            forward_part(engine, geometry, self.slope, held=packs_once) if channels_last else None
        )
        if self.adds and self.forward_part is None:
            raise Refused("a residual costs oneDNN's convolutions more than a sum after them")
        self.packed = self._packed_memory() if packs_once else None
        if self.forward_part is None:
            self._write_forward(self.forward_routine)
        self.backward_bottoms, self.backward_tops = (), ()
        self.backward_parts: list[Part] = []
        if mode.backward and self.needs_backward:
            self._write_backward(self.backward_routine, channels_last)
            self.backward_bottoms = (0,) if any(self.param_needs_grad) else ()
            self.backward_tops = () if self.slope is None else (0,)
        self.take_workspaces()
        self.variant = f"{self._variant()} {layouts.bottom} to {layouts.top}"

    def _variant(self) -> str:
        part = self.forward_part
        if part is not None:
            return part.variant
        narrow = self.primitive.argument(kinds.WEIGHTS).dtype == kinds.BFLOAT16
        return variant_of(self.math, self.primitive.implementation, narrow=narrow)

    def take_workspaces(self) -> None:
        self.forward_workspace = self._forward().workspace
        backward: list[Part | Routine] = [self.backward_routine, *self.backward_parts]
        self.backward_workspace = merged(part.workspace for part in backward)
        if self.sampling is not None:
            self.forward_workspace = {**self.forward_workspace, **self.sampling.workspace(CELLS)}
            self.backward_workspace |= self.sampling.workspace(CELLS, CELL_GRADIENTS)

    def forward(self, b: Buffers) -> Run:
        return self.bind_forward(self.forward_arrays(b), b.workspace)

    def bind_forward(self, arrays: Mapping[str, Array], workspace: Mapping[str, Array]) -> Run:
        """The forward pass on these arrays."""
        if self.sampling is None:
            return self._forward().bind(arrays, workspace)
        arrays, gather = self.sampling.gather(arrays, workspace)
        return in_sequence([gather, self._forward().bind(arrays, workspace)])

    def _forward(self) -> Part | Routine:
        return self.forward_routine if self.forward_part is None else self.forward_part

    def prepare(self, b: Buffers) -> Run | None:
        """Reorders the weights for all passes to come; None where every pass does."""
        return None if self.packed is None else self.pack(b.params[0], self.packed)

    def pack(self, weight: Array, packed: Array) -> Run:
        """Brings weights into the order that the forward pass wants."""
        if self.forward_part is not None:
            return self.forward_part.pack(weight, packed)
        routine = Routine(self.engine, self.rounding)
        source = routine.operand("weight", self.weight)
        routine.bring(source, routine.operand("packed", self.primitive.argument(kinds.WEIGHTS)))
        assert not routine.workspace
        return routine.bind({"weight": weight, "packed": packed}, {})

    def forward_arrays(self, b: Buffers) -> dict[str, Array]:
        """The forward routine's operands."""
        arrays = {"bottom": b.bottoms[0], "top": b.tops[0]}
        arrays["weight"] = b.params[0] if self.packed is None else self.packed
        if self.biased:
            arrays["bias"] = self.bias_of(b)
        if self.adds:
            arrays["residual"] = b.bottoms[1]
        return arrays

    def bias_of(self, b: Buffers) -> Array:
        """What the forward pass adds for each channel."""
        return b.params[1]

    def _packed_memory(self) -> np.ndarray:
        """Memory for the weights in the order that the primitive wants."""
        part = self.forward_part
        nbytes = self.primitive.argument(kinds.WEIGHTS).nbytes if part is None else part.packed_nbytes
        raw = np.zeros(nbytes + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        return raw[start : start + nbytes]

    def backward(self, b: Buffers) -> Run:
        arrays = {
            "bottom": b.bottoms[0],
            "top": b.tops[0],
            "weight": b.params[0],
            "top gradient": b.top_grads[0],
            "bottom gradient": b.bottom_grads[0],
            "weight gradient": b.param_grads[0],
            "bias gradient": b.param_grads[-1],
        }
        before, after = list[Run](), list[Run]()
        if self.sampling is not None and any(self.param_needs_grad):
            arrays, gather = self.sampling.gather(arrays, b.workspace)
            before.append(gather)
        if self.sampling is not None and self.input_needs_grad[0]:
            arrays, scatter = self.sampling.scatter(arrays, b.workspace)
            after.append(scatter)
        routine: list[Part | Routine] = [self.backward_routine] if self.backward_routine.steps else []
        parts = [part.bind(arrays, b.workspace) for part in (*routine, *self.backward_parts)]
        return in_sequence([*before, *parts, *after])

    def flops(self) -> int:
        return self.geometry.flops

    def _describe_operands(self, layouts: Layouts) -> None:
        """How the operands lie, and how the primitives may take them."""
        engine, geometry = self.engine, self.geometry
        self.bottom = descriptor_of(engine, geometry.bottom, layouts.bottom)
        self.top = descriptor_of(engine, geometry.top, layouts.top)
        self.weight = Descriptor.strided(engine, geometry.weight, geometry.weight_strides)
        self.bias = Descriptor.strided(engine, geometry.bias)
        lie = partial(Factors.of, engine, geometry, layouts.bottom, layouts.top, layouts.inside)
        self.results = lie(kinds.FLOAT32)
        self.factors = [lie(dtype) for dtype in factor_types(self.math, engine)]

    def _describe_forward(self, training: bool, factors: Factors) -> PrimitiveDescriptor:
        return describe(
            self.engine,
            f"{self.kind}_forward",
            kinds.FORWARD_TRAINING if training else kinds.FORWARD_INFERENCE,
            self.algorithm,
            factors.bottom,
            factors.weight,
            self.bias if self.biased else None,
            self.results.top,
            *self.geometry.windows,
            attributes=self._attributes(),
        )

    def _is_biased(self) -> bool:
        return len(self.node.params) > 1

    def _slope(self) -> float | None:
        """The slope of the ReLU at the end; None where there is no ReLU."""
        return slope_of(self.nodes[-1]) if self.nodes[-1].type == "ReLU" else None

    def _attributes(self) -> Attributes:
        """What is done to the results before they are written."""
        return Attributes(self.engine, slope=self.slope)

    def _after(self) -> list[tuple[str, Descriptor]]:
        """The arguments that `_attributes` asks for, by name."""
        return []

    def _describe_backward(self, of: str, *operands: Descriptor | None) -> PrimitiveDescriptor:
        """of: "data" or "weights"."""
        arguments = (self.algorithm, *operands, *self.geometry.windows, self.primitive)
        return describe(self.engine, f"{self.kind}_backward_{of}", *arguments)

    def _write_forward(self, routine: Routine) -> None:
        reads = {kinds.SOURCE: routine.operand("bottom", self.bottom)}
        weight = self.weight if self.packed is None else self.primitive.argument(kinds.WEIGHTS)
        reads[kinds.WEIGHTS] = routine.operand("weight", weight, rounded=self.packed is not None)
        if self.biased:
            reads[kinds.BIAS] = routine.operand("bias", self.bias)
        for place, (name, descriptor) in enumerate(self._after()):
            reads[kinds.operand_after(place)] = routine.operand(name, descriptor)
        routine.add(self.primitive, reads, {kinds.DESTINATION: routine.operand("top", self.top)})

    def _write_backward(self, routine: Routine, channels_last: bool) -> None:
        """The routine, and the parts that run after it."""
        if first := self._first_part():
            self.backward_parts.append(first)
            return
        gradient = routine.operand("top gradient", self.top)
        if self.slope is not None:
            add_relu_backward(routine, self.slope, routine.operand("top", self.top), gradient)
        if any(self.param_needs_grad):
            part = self._filters_part() if channels_last else None
            if part is None:
                self._add_weights(routine, gradient)
            else:
                self.backward_parts.append(part)
        if self.input_needs_grad[0]:
            data = data_part(self.engine, self.geometry) if channels_last else None
            if data is None:
                self._add_data(routine, gradient)
            else:
                self.backward_parts.append(data)

    def _first_part(self) -> Part | None:
        """The part that is all of the backward pass where the bottom holds images, from outside."""
        outside = self.bottom_layouts == (PLAIN,) and not self.input_needs_grad[0]
        if self.kind != "convolution" or not outside or self.math == BF16:
            return None
        (layout,) = self.top_layouts or (PLAIN,)
        wanted = (self.param_needs_grad[0], self.biased and self.param_needs_grad[1])
        adds = (not self.fresh[0], self.biased and not self.fresh[1])
        return first_filters(self.geometry, layout, self.engine.block, self.slope, wanted, adds)

    def _filters_part(self) -> Part | None:
        """The part that computes the gradients of weights and bias."""
        biased = self.biased and self.param_needs_grad[1]
        adds = (not self.fresh[0], self.biased and not self.fresh[1])
        return filters_part(self.engine, self.geometry, (self.param_needs_grad[0], biased), adds)

    def _add_data(self, routine: Routine, gradient: str) -> None:
        """The gradient of the bottom."""
        data = fastest(
            self.factors,
            lambda factors: self._describe_backward("data", self.results.bottom, factors.weight, factors.top),
        )
        routine.add(
            data,
            {kinds.DESTINATION_GRADIENT: gradient, kinds.WEIGHTS: routine.operand("weight", self.weight)},
            {kinds.SOURCE_GRADIENT: routine.operand("bottom gradient", self.bottom)},
        )

    def _add_weights(self, routine: Routine, gradient: str) -> None:
        """The gradients of the weights and of the bias. Raises Refused where oneDNN's would be wrong."""
        biased = self.biased and self.param_needs_grad[1]
        results = self.results.weight, self.bias if biased else None
        primitive = fastest(
            self.factors,
            lambda factors: self._describe_backward("weights", factors.bottom, *results, factors.top),
        )
        if self._overlaps(primitive):
            raise Refused("cells of less than a vector are gathered over one another")
        reads = {kinds.SOURCE: routine.operand("bottom", self.bottom), kinds.DESTINATION_GRADIENT: gradient}
        written: dict[bool, dict[int, str]] = {True: {}, False: {}}  # by whether they are added to
        weight = routine.operand("weight gradient", self.weight)
        if self.param_needs_grad[0]:
            written[not self.fresh[0]][kinds.WEIGHTS_GRADIENT] = weight
        else:
            written[False][kinds.WEIGHTS_GRADIENT] = routine.temporary(
                weight, primitive.argument(kinds.WEIGHTS_GRADIENT)
            )
        if biased:
            bias = routine.operand("bias gradient", self.bias)
            written[not self.fresh[1]][kinds.BIAS_GRADIENT] = bias
        routine.add(primitive, reads, writes=written[False], adds=written[True])

    def _overlaps(self, primitive: PrimitiveDescriptor) -> bool:
        """Whether oneDNN gathers the cells that a stride leaves as whole vectors, where each is less: one
        thread writes over what another has gathered, and the last beyond its memory."""
        geometry = self.geometry
        grouped = len(geometry.weight) > len(geometry.bottom)
        narrow = geometry.bottom[1] < self.engine.block and geometry.is_thinned
        if self.kind != "convolution" or grouped or not narrow:
            return False
        source = primitive.argument(kinds.SOURCE)
        return not source.is_like(descriptor_of(self.engine, geometry.bottom, BLOCKED, source.dtype))


def make_filters(
    kind: str,
    geometry_of: Callable[[SlidingFilters], Geometry | None],
    nodes: Sequence[Node],
    mode: Mode,
    engine: Engine,
) -> FiltersForm | None:
    """The form of a layer with filters, and of the sum and the ReLU that may follow it, in the best layout
    that has a fast primitive."""
    if not ends_can_join(nodes, mode):
        return None

    def make(geometry: Geometry, layouts: Layouts) -> FiltersForm:
        return FiltersForm(nodes, mode, engine, kind, geometry, layouts, packs_once=mode.holds)

    return in_best_layout(geometry_of, nodes, mode, engine, make)


def ends_can_join(nodes: Sequence[Node], mode: Mode) -> bool:
    """Whether the sum and the ReLU that end a chain, where they do, can be part of what is before them."""
    if nodes[-1].type == "ReLU" and not relu_can_end(nodes):
        return False
    return all(is_sum_of_two(node.layer) and not mode.backward for node in nodes if node.type == "Eltwise")


def in_best_layout(
    geometry_of: Callable[[SlidingFilters], Geometry | None],
    nodes: Sequence[Node],
    mode: Mode,
    engine: Engine,
    make: Callable[[Geometry, Layouts], FiltersForm],
) -> FiltersForm | None:
    """What `make` makes of the layouts of bottom and top, for the first that have a fast primitive."""
    layer = nodes[0].layer
    assert isinstance(layer, SlidingFilters)
    if not fits(nodes) or len(nodes[0].inputs) > 1:
        return None
    geometry = geometry_of(layer)
    if geometry is None:
        return None
    for layouts in _layouts(layer, nodes[0], mode, engine.block):
        try:
            form = make(geometry, layouts)
        except Refused:
            continue
        if not form.is_slow:
            return form
    return None


def _layouts(layer: SlidingFilters, node: Node, mode: Mode, block: int) -> Iterator[Layouts]:
    """The layouts to try, the best first."""
    shape = node.inputs[0].shape
    images = shape[layer.axis] <= IMAGE_CHANNELS
    wanted = layout_for(node.inputs[0], mode) if layer.axis == 1 else PLAIN
    if wanted != PLAIN:
        if images and not any(node.input_needs_grad):  # they stay plain
            yield Layouts(PLAIN, wanted)
        yield Layouts(wanted, wanted)
        yield Layouts(NHWC, NHWC)
    if layer.axis == 1 and len(shape) == 4:
        sizes = [node.outputs[0].shape[1], *([] if images else shape[1:2])]
        if any(filled(size, block) > 1 + WASTE for size in sizes):
            yield Layouts(PLAIN, PLAIN, NHWC)
    yield Layouts(PLAIN, PLAIN)
    if layer.axis == 1 and len(shape) == 4:
        yield Layouts(PLAIN, PLAIN, BLOCKED)
