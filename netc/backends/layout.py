"""How values lie in memory where a backend has a choice, and what carries them from one layout to another.

A value's shape is always (N, C, H, W); its layout says how the elements follow each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from types import ModuleType
from typing import ClassVar

from netc.backends.backend import Backend
from netc.backends.form import BLOCKED, NHWC, PLAIN, ReferenceForm
from netc.graph import Graph, Node, Value
from netc.layer import Array, Buffers, Layer, Shape
from netc.passes.memory import read_by_backward
from netc.proto import netc_pb2 as pb


class Reorder(Layer):
    """y = x in another layout. It stands in no prototxt: netc puts it where the forms of two nodes differ."""

    type: ClassVar[str] = "Reorder"
    backward_bottoms = ()
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        return list(bottoms)

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        b.tops[0][...] = b.bottoms[0]

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        (dx,), (dy,) = b.bottom_grads, b.top_grads
        assert dx is not None
        dx[...] = dy


def mark_plain(graph: Graph, backend: Backend) -> None:
    """Notes which values lie plain in every layout: those that users read, and those that share memory which
    backward reads after a later layer has written into it, in place. What it reads is what that layer has
    left there; a reorder between the two would keep it from seeing that."""
    writers: dict[Value, list[Node]] = defaultdict(list)  # in place, by whose memory it is
    for node in graph.nodes:
        for value in node.outputs:
            if value.memory is not value and not node.layer.shares_data:
                writers[value.memory].append(node)
    order = {node: place for place, node in enumerate(graph.nodes)}
    read_late = {
        value.memory
        for node in graph.nodes
        if node.needs_backward
        for value in read_by_backward(ReferenceForm(node, backend.xp))
        if _matters(node, [writer for writer in writers[value.memory] if order[writer] > order[node]])
    }
    for value in graph.values():
        value.lies_plain = is_shown(graph, value) or value.memory in read_late


def is_shown(graph: Graph, value: Value) -> bool:
    """Whether a user reads a value: then it lies plain."""
    return value in graph.outputs or bool(value.loss_weight)


def _matters(reader: Node, writers: Sequence[Node]) -> bool:
    """Whether backward's result hangs on what later layers have written. Dropout only sets values to zero,
    whose gradients are zero then, and scales the others: a ReLU sees the same sides, or need not."""
    return bool(writers) and not (reader.type == "ReLU" and all(node.type == "Dropout" for node in writers))


def view(backend: Backend, memory: Array, offset: int, value: Value, dtype: type) -> Array:
    """A value's array, from a byte offset of the arena on: what forms of its layout are given."""
    if value.layout == BLOCKED:
        return backend.array(memory, offset, (value.memory_elements,), dtype)
    if value.layout == NHWC:
        n, c, h, w = value.shape
        return backend.array(memory, offset, (n, h, w, c), dtype).transpose(0, 3, 1, 2)
    return backend.array(memory, offset, value.shape, dtype)


def plainest(value: Value, layout: str, backend: Backend) -> str:
    """Plain where a value lies so in another layout as well, which then differs by its name alone."""
    return PLAIN if backend.lie_alike(value.shape, layout, PLAIN) else layout


def lay_out(value: Value, layout: str, backend: Backend) -> None:
    """Says how a value lies; one that lies in another's memory lies there as that one does."""
    root = value.memory
    layout = plainest(value, layout, backend)
    assert value is root or layout == root.layout, f"{value.name} lies in the memory of {root.name}"
    value.layout = layout
    value.memory_elements = backend.elements(value.shape, layout)


def insert_reorder(value: Value, consumer: Node, layout: str, backend: Backend) -> tuple[Node, Value]:
    """A node that brings a value into the layout that its consumer wants, and the value it makes.

    What the consumer, or whoever follows it, writes in place is written into the new value's memory.
    """
    spec = pb.LayerParameter(name=f"{value.name}_{layout}", type=Reorder.type)
    layer = Reorder(spec, dtype=consumer.layer.dtype)
    layer.bottom_shapes, layer.top_shapes = [value.shape], [value.shape]
    place = consumer.inputs.index(value)
    wanted = consumer.needs_backward and consumer.input_needs_grad[place]
    node = Node(layer, consumer.location, inputs=[value], needs_backward=wanted, input_needs_grad=[wanted])
    made = Value(spec.name, value.shape, node, consumers=[consumer])
    node.outputs = [made]
    value.consumers[value.consumers.index(consumer)] = node
    consumer.inputs[place] = made
    _move_into(made, value, consumer)
    lay_out(made, layout, backend)
    return node, made


def _move_into(made: Value, value: Value, consumer: Node) -> None:
    """Whatever lies in a value's memory because the consumer, or a follower, leaves it there, moves along."""
    followers = [consumer]
    while followers:
        for output in followers.pop().outputs:
            moved = False
            if output.memory is value.memory:
                output.memory, moved = made, True
            if output.diff_memory is value.diff_memory:
                output.diff_memory, moved = made, True
            if moved:
                followers += output.consumers
