"""Concat and Slice on oneDNN: values are copied into, or out of, the parts of a larger one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate

from netc.backends.cpu.chain import fits, in_sequence
from netc.backends.cpu.layout import descriptor_of, layout_of
from netc.backends.cpu.onednn import Engine, Refused, Routine
from netc.backends.form import BLOCKED, NHWC, PLAIN, Form, Maker, Mode, Run
from netc.graph import Node, Value
from netc.layer import Array, Buffers
from netc.layer.base import Scratch
from netc.layer.concat import Concat, Slice


class PartsForm(Form):
    """Copies between a value and its parts along one axis, all in one layout.

    joins: whether the parts are the bottoms (Concat) or the tops (Slice). Raises Refused where a block of
    channels would lie in two parts.
    """

    def __init__(self, node: Node, engine: Engine, axis: int, layout: str, *, joins: bool) -> None:
        super().__init__((node,))
        self.engine, self.joins = engine, joins
        self.bottom_layouts = (layout,) * len(self.inputs)
        self.top_layouts = (layout,) * len(self.outputs)
        self.backward_bottoms, self.backward_tops = (), ()
        parts, (whole,) = (self.inputs, self.outputs) if joins else (self.outputs, self.inputs)
        self._describe(parts, whole, axis, layout)
        self.forward_workspace = self._workspace(joins)
        self.backward_workspace = self._workspace(not joins)
        self.variant = f"onednn reorder {layout}"

    def _describe(self, parts: Sequence[Value], whole: Value, axis: int, layout: str) -> None:
        engine = self.engine
        sizes = [part.shape[axis] for part in parts]
        if layout == BLOCKED and axis == 1 and any(size % engine.block for size in sizes[:-1]):
            raise Refused("a block of channels would lie in two parts")
        starts = accumulate(sizes[:-1], initial=0)
        offsets = [[start if i == axis else 0 for i in range(len(whole.shape))] for start in starts]
        self.parts = [descriptor_of(engine, part.shape, layout) for part in parts]
        large = descriptor_of(engine, whole.shape, layout)
        self.places = [large.part(part.shape, offset) for part, offset in zip(parts, offsets, strict=True)]

    def _copies(self, given: Sequence[int], joins: bool) -> Routine:
        """Copies the given parts into the whole, or out of it."""
        routine = Routine(self.engine)
        for i in given:
            part = routine.operand(f"part {i}", self.parts[i])
            place = routine.operand(f"place {i}", self.places[i])
            routine.reorder(*((part, place) if joins else (place, part)))
        return routine

    def _workspace(self, joins: bool) -> dict[str, Scratch]:
        return self._copies(range(len(self.parts)), joins).workspace

    def _bind(
        self, parts: Sequence[Array | None], whole: Array, workspace: dict[str, Array], joins: bool
    ) -> Run:
        given = [i for i, part in enumerate(parts) if part is not None]
        arrays = {f"part {i}": parts[i] for i in given} | {f"place {i}": whole for i in given}
        return self._copies(given, joins).bind(arrays, workspace)

    def forward(self, b: Buffers) -> Run:
        parts, whole = (b.bottoms, b.tops[0]) if self.joins else (b.tops, b.bottoms[0])
        return self._bind(parts, whole, b.workspace, self.joins)

    def backward(self, b: Buffers) -> Run | None:
        if self.joins:
            return self._bind(b.bottom_grads, b.top_grads[0], b.workspace, False)
        whole = b.bottom_grads[0]
        if whole is None:
            return None
        runs = [self._bind(b.top_grads, whole, b.workspace, True)]
        if any(gradient is None for gradient in b.top_grads):
            runs.insert(0, partial(whole.fill, 0))
        return in_sequence(runs)


def make_parts(nodes: Sequence[Node], mode: Mode, engine: Engine) -> Form | None:
    """The form of a Concat or a Slice."""
    node = nodes[0]
    layer = node.layer
    assert isinstance(layer, Concat | Slice)
    joins = isinstance(layer, Concat)
    if not fits(nodes):
        return None
    for layout in _layouts(node.inputs):
        try:
            return PartsForm(node, engine, layer.axis, layout, joins=joins)
        except Refused:
            continue
    return None


def _layouts(values: Sequence[Value]) -> Iterator[str]:
    """The layout of most bottoms, then the others that they can be brought into."""
    first = layout_of(values)
    yield first
    if first == BLOCKED:
        yield NHWC
    if first != PLAIN:
        yield PLAIN


FORMS: dict[tuple[str, ...], Maker] = {("Concat",): make_parts, ("Slice",): make_parts}
