"""Runs a fast form and the layers that it stands for on the same arrays, and compares all that they write.

It keeps a form to its word: workspaces hold NaNs before each run, and so does by the time of backward
whatever the form does not declare that backward reads. What it writes outside of its arrays is found out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from netc.backends.cpu.onednn import Engine, open_engine
from netc.backends.form import BLOCKED, NHWC, PLAIN, Form, Maker, Mode
from netc.graph import Graph, Node, Value
from netc.graph.build import Build, build_graph
from netc.graph.rules import State
from netc.layer import Buffers, Scratch
from netc.passes import run_passes
from netc.proto import netc_pb2 as pb
from netc.schema.text import parse_text

Array = np.ndarray[Any, Any]
LAYOUTS = (PLAIN, NHWC, BLOCKED)
TOLERANCE = 1e-5  # of the largest value of an array
FENCE = 1 << 14  # bytes around every array, which nobody may touch
FENCE_BYTE = 0xA5


def engine() -> Engine:
    """The engine; the test is skipped where oneDNN is missing."""
    opened = open_engine()
    if opened is None:
        pytest.skip("oneDNN is not installed")
    return opened


def build(layers: str, *shapes: Sequence[int], phase: int = pb.TRAIN) -> Graph:
    """The graph of some layers on inputs x0, x1, ... of these shapes; all gradients are wanted."""
    text = "force_backward: true\n"
    for i, shape in enumerate(shapes):
        sizes = " ".join(f"dim: {size}" for size in shape)
        text += f'layer {{ name: "x{i}" type: "Input" top: "x{i}" input_param {{ shape {{ {sizes} }} }} }}\n'
    message = parse_text(text + layers, pb.NetParameter, "test.prototxt").message
    return run_passes(build_graph(message, Build(State(phase))))


def pack(values: Array, layout: str, block: int) -> Array:
    """Values of (N, C, H, W) as an array that lies in a layout."""
    if layout == PLAIN:
        return np.array(values, order="C")
    if layout == NHWC:
        return np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    images, channels, height, width = values.shape
    padded = np.zeros((images, -(-channels // block) * block, height, width), values.dtype)
    padded[:, :channels] = values
    return padded.reshape(images, -1, block, height, width).transpose(0, 1, 3, 4, 2).reshape(-1)


def unpack(array: Array, shape: Sequence[int], layout: str, block: int) -> Array:
    """The values of an array that lies in a layout."""
    if layout != BLOCKED:
        return np.array(array, order="C")
    images, channels, height, width = shape
    blocks = array.reshape(images, -1, height, width, block).transpose(0, 1, 4, 2, 3)
    padded = blocks.reshape(images, -1, height, width)
    assert not padded[:, channels:].any(), "the padding of the last block must stay zero"
    return np.ascontiguousarray(padded[:, :channels])


@dataclass
class Results:
    """All that a run wrote, by name."""

    arrays: dict[str, Array] = field(default_factory=dict)


class FormCase:
    """A chain of nodes with values for everything that they read."""

    def __init__(
        self,
        make: Maker,
        graph: Graph,
        layout: str,
        *,
        backward: bool = True,
        wanted: Sequence[bool] = (),
        given: Sequence[bool] = (),
        fresh: bool = False,
        holds: bool = False,
        seed: int = 1,
        low: float = -1.0,
    ) -> None:
        self.engine = engine()
        self.block = self.engine.block
        self.nodes = [node for node in graph.nodes if node.type != "Input"]
        for node in self.nodes if fresh else ():
            node.fresh_grads = [True] * len(node.params)
        for i, flag in enumerate(wanted):
            self.nodes[0].input_needs_grad[i] = flag
        for node in graph.nodes:
            for value in node.outputs:
                value.layout = layout if len(value.shape) == 4 else PLAIN
        self.backward = backward
        self.given, self.fresh = given, fresh
        self.form: Form | None = make(self.nodes, Mode(backward, fresh, holds, layout=layout), self.engine)
        self.random = np.random.default_rng(seed)
        self.low = low
        self.params = [self.draw(param.shape) for node in self.nodes for param in node.params]
        # What fresh gradients replace, and all others are added to.
        self.grads = [self.draw(param.shape) * (0 if fresh else 1) for param in self.params]

    def draw(self, shape: Sequence[int], low: float | None = None) -> Array:
        return self.random.uniform(self.low if low is None else low, 1, shape).astype(np.float32)

    def check(self) -> Form:
        """Asserts that the form computes what the layers do; returns the form."""
        form = self.form
        assert form is not None, "no form fits"
        self.bottoms = [self.draw(value.shape) for value in form.inputs]
        self.top_grads = [self.draw(value.shape, -1) for value in form.outputs]
        self.none_given = {v for v, flag in zip(form.outputs, self.given, strict=False) if not flag}
        expected, found = self.run_reference(), self.run_form(form)
        assert expected.keys() <= found.keys()
        for name, values in expected.items():
            assert values.shape == found[name].shape, name
            error = np.abs(values - found[name]).max() / max(1e-30, np.abs(values).max())
            assert error <= TOLERANCE, f"{name} is off by {error:.2e} of its largest value ({form.variant})"
        return form

    def run_reference(self) -> dict[str, Array]:
        """What the layers write, one after the other, on plain arrays."""
        memory, gradients = Places(), Places()
        for value, values in zip(self.form.inputs, self.bottoms, strict=True):
            memory.put(value.memory, values.copy())
        params, grads = ([array.copy() for array in arrays] for arrays in (self.params, self.grads))
        runs, place = [], 0
        for node in self.nodes:
            part = slice(place, place + len(node.params))
            place += len(node.params)
            b = Buffers(
                bottoms=[memory.get(value.memory, value.shape) for value in node.inputs],
                tops=[memory.get(value.memory, value.shape) for value in node.outputs],
                params=params[part],
                saved=allocate(node.layer.saved),
                states=allocate(node.layer.states),
                param_grads=[
                    grad if want else None
                    for grad, want in zip(grads[part], node.param_needs_grad, strict=True)
                ],
            )
            node.layer.forward(np, b)
            runs.append((node, b))
        results = self.results(self.form.outputs, memory, "top") | named("param", params)
        if self.backward:
            for value, values in zip(self.form.outputs, self.top_grads, strict=True):
                gradients.put(value.diff_memory, values.copy())
            for node, b in reversed(runs):
                b.top_grads = [
                    None if value in self.none_given else gradients.get(value.diff_memory, value.shape)
                    for value in node.outputs
                ]
                b.bottom_grads = [
                    gradients.get(value.diff_memory, value.shape) if want else None
                    for value, want in zip(node.inputs, node.input_needs_grad, strict=True)
                ]
                node.layer.backward(np, b)
            wanted = [v for v, w in zip(self.form.inputs, self.form.input_needs_grad, strict=True) if w]
            results |= self.results(wanted, gradients, "bottom gradient") | named("param gradient", grads)
        return results

    @staticmethod
    def results(values: Sequence[Value], places: Places, name: str) -> dict[str, Array]:
        arrays = [
            places.get(getattr(v, "diff_memory" if "grad" in name else "memory"), v.shape) for v in values
        ]
        return named(name, arrays)

    def run_form(self, form: Form) -> dict[str, Array]:
        """What the form writes, on arrays in its layouts."""
        fences.clear()
        into = form.bottom_layouts or [PLAIN] * len(form.inputs)
        out = form.top_layouts or [PLAIN] * len(form.outputs)
        memory, gradients = Places(), Places()
        for value, values, layout in zip(form.inputs, self.bottoms, into, strict=True):
            memory.put(value.memory, aligned(pack(values, layout, self.block)))
        for value, layout in zip(form.outputs, out, strict=True):
            if value.memory not in memory.arrays:
                blank = pack(np.full(value.shape, np.nan, np.float32), layout, self.block)
                blank[...] = np.nan
                memory.put(value.memory, aligned(blank))
        params, grads = ([aligned(array) for array in arrays] for arrays in (self.params, self.grads))
        b = Buffers(
            bottoms=[memory.arrays[value.memory] for value in form.inputs],
            tops=[memory.arrays[value.memory] for value in form.outputs],
            params=params,
            saved=allocate(form.saved),
            states={k: v for node in self.nodes for k, v in allocate(node.layer.states).items()},
        )
        b.workspace = allocate(form.forward_workspace)
        if run := form.prepare(b):
            run()
        if run := form.forward(b):
            run()
            spoil(b.workspace)
        results = {
            f"top {i}": unpack(array.copy(), value.shape, layout, self.block)
            for i, (array, value, layout) in enumerate(zip(b.tops, form.outputs, out, strict=True))
        }
        results |= named("param", params)
        if self.backward:
            results |= self._run_backward(form, b, gradients, grads, into, out)
        assert all((fence == FENCE_BYTE).all() for fence in fences), f"{form.variant} wrote beyond an array"
        return results

    def _run_backward(
        self,
        form: Form,
        b: Buffers,
        gradients: Places,
        grads: list[Array],
        into: Sequence[str],
        out: Sequence[str],
    ) -> dict[str, Array]:
        for value, values, layout in zip(form.outputs, self.top_grads, out, strict=True):
            gradients.put(value.diff_memory, aligned(pack(values, layout, self.block)))
        for value, values, layout in zip(form.inputs, self.bottoms, into, strict=True):
            if value.diff_memory not in gradients.arrays:
                blank = aligned(pack(values, layout, self.block))
                blank[...] = np.nan
                gradients.put(value.diff_memory, blank)
        read = {id(array) for array in chosen(b.bottoms, form.backward_bottoms)}
        read |= {id(array) for array in chosen(b.tops, form.backward_tops)}
        for array in (*b.bottoms, *b.tops):
            if id(array) not in read:
                array[...] = np.nan
        b.top_grads = [
            None if value in self.none_given else gradients.arrays[value.diff_memory]
            for value in form.outputs
        ]
        b.bottom_grads = [
            gradients.arrays[value.diff_memory] if want else None
            for value, want in zip(form.inputs, form.input_needs_grad, strict=True)
        ]
        b.param_grads = [
            grad if want else None for grad, want in zip(grads, form.param_needs_grad, strict=True)
        ]
        if self.fresh and form.writes_fresh:
            spoil({str(i): grad for i, grad in enumerate(b.param_grads) if grad is not None})
        b.workspace = allocate(form.backward_workspace)
        if run := form.backward(b):
            run()
        wanted = [
            (grad, value, layout)
            for grad, value, layout in zip(b.bottom_grads, form.inputs, into, strict=True)
            if grad is not None
        ]
        found = [unpack(grad, value.shape, layout, self.block) for grad, value, layout in wanted]
        return named("bottom gradient", found) | named("param gradient", grads)


class Places:
    """Arrays by the value whose memory they are."""

    def __init__(self) -> None:
        self.arrays: dict[Value, Array] = {}

    def put(self, owner: Value, array: Array) -> None:
        self.arrays[owner] = array

    def get(self, owner: Value, shape: Sequence[int]) -> Array:
        if owner not in self.arrays:
            self.arrays[owner] = np.full(shape, np.nan, np.float32)
        return self.arrays[owner].reshape(shape)


def named(name: str, arrays: Sequence[Array]) -> dict[str, Array]:
    return {f"{name} {i}": array for i, array in enumerate(arrays)}


def chosen(arrays: Sequence[Array], indices: Sequence[int] | None) -> list[Array]:
    return list(arrays) if indices is None else [arrays[i] for i in indices]


fences: list[Array] = []  # around the arrays that `aligned` has made


def aligned(array: Array) -> Array:
    """A copy at an address that is a multiple of 64, with the same strides, between two fences."""
    raw = np.full(array.nbytes + 64 + 2 * FENCE, FENCE_BYTE, np.uint8)
    start = FENCE + -raw.ctypes.data % 64
    stop = start + array.nbytes
    fences.extend((raw[:start], raw[stop:]))
    flat = raw[start:stop].view(array.dtype)
    order = np.argsort([-stride for stride in array.strides], kind="stable")
    copy = flat.reshape([array.shape[axis] for axis in order]).transpose(np.argsort(order))
    copy[...] = array
    return copy


def allocate(arrays: Any) -> dict[str, Array]:
    """Scratch arrays full of NaNs (or the like)."""
    made = {name: aligned(np.zeros(s.shape, s.dtype or np.float32)) for name, s in arrays.items()}
    spoil(made)
    return made


def spoil(arrays: dict[str, Array]) -> None:
    for array in arrays.values():
        array.reshape(-1).view(np.uint8)[...] = 0xFF


__all__ = ["BLOCKED", "LAYOUTS", "NHWC", "PLAIN", "FormCase", "Node", "Scratch", "build", "engine"]
