"""Runs one form by itself on a device, beside the layers that it stands for, for tests.

What a form may read is defined and what it may write is poisoned before each direction, so that check mode
sees a read of anything else; its layers run in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from netc.backends.cuda.emulated_device import EmulatedDevice
from netc.backends.form import Form, Maker, Mode
from netc.graph import Node, Value
from netc.graph.graph import Param
from netc.layer import Buffers, Layer, Scratch
from tests.layer.one_layer import OneLayer, make_layer

Array = Any


def make_nodes(texts: Sequence[str], bottoms: Sequence[Array], wanted: Sequence[bool]) -> list[Node]:
    """A chain of nodes, each reading the one before; `wanted`: which bottoms from outside want gradients."""
    source = Node(make_layer('type: "Input" input_param { }', 0), None)
    outside = [Value(f"x{i}", np.shape(x), source) for i, x in enumerate(bottoms)]
    nodes: list[Node] = []
    for text in texts:
        inputs = [nodes[-1].outputs[0]] if nodes else outside
        layer = make_layer(text, len(inputs))
        layer.bottom_shapes = [value.shape for value in inputs]
        layer.top_shapes = layer.infer(layer.bottom_shapes)
        node = Node(layer, None, list(inputs), needs_backward=True)
        node.input_needs_grad = [True] if nodes else list(wanted)
        for i, shape in enumerate(layer.top_shapes):
            top = Value(f"y{i}", shape, node)
            if layer.shares_data or (layer.runs_in_place and i == 0):
                top.memory = inputs[0].memory
            if layer.shares_diff or (layer.runs_in_place and i == 0):
                top.diff_memory = inputs[0].diff_memory
            node.outputs.append(top)
        node.params = [Param(layer.name, i, blob.shape, blob) for i, blob in enumerate(layer.params)]
        node.param_needs_grad = [True] * len(node.params)
        for value in inputs:
            value.consumers.append(node)
        nodes.append(node)
    return nodes


class OneForm:
    """A form with its arrays on an emulated device."""

    def __init__(
        self,
        device: EmulatedDevice,
        maker: Maker,
        texts: str | Sequence[str],
        *bottoms: Array,
        params: Sequence[Array] = (),
        wanted: Sequence[bool] | None = None,
        mode: Mode | None = None,
        skew: int = 0,
    ) -> None:
        self.device, self.skew = device, skew
        self.texts = [texts] if isinstance(texts, str) else list(texts)
        self.given = [np.array(x, np.float32) for x in bottoms]
        first: Layer = make_layer(self.texts[0], len(bottoms))
        self.wanted = wanted or [first.gives_gradient(i) for i in range(len(bottoms))]
        self.nodes = make_nodes(self.texts, bottoms, self.wanted)
        self.params = [np.array(param, np.float32) for param in params]
        made = maker(self.nodes, mode or Mode(), device)
        assert made is not None, "the form does not fit"
        self.form: Form = made
        self.buffers = b = Buffers(bottoms=[self.upload(x, f"x{i}") for i, x in enumerate(self.given)])
        b.params = [self.upload(param, f"param {i}") for i, param in enumerate(self.params)]
        for i, value in enumerate(self.form.outputs):
            shared = value.memory is self.nodes[0].inputs[0]
            b.tops.append(b.bottoms[0].reshape(value.shape) if shared else self.room(value.shape, f"y{i}"))
        b.saved = self.scratch(self.form.saved)
        b.states = {
            name: self.upload(np.zeros(state.shape, state.dtype or np.float32), name)
            for node in self.nodes
            for name, state in node.layer.states.items()
        }

    def room(self, shape: Any, name: str, dtype: Any = np.float32) -> Array:
        """An array that nobody has written."""
        skew = self.skew if np.dtype(dtype) == np.float32 else 0
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        array = self.device.allocate_array(nbytes + skew, name)[skew:].view(dtype).reshape(shape)
        self.device.poison(self.device.memory_of(array))
        return array

    def upload(self, values: Array, name: str) -> Array:
        array = self.room(values.shape, name, values.dtype)
        self.device.upload(self.device.memory_of(array), values)
        return array

    def scratch(self, arrays: Any) -> dict[str, Array]:
        wanted: dict[str, Scratch] = dict(arrays)
        return {name: self.room(s.shape, name, s.dtype or np.float32) for name, s in wanted.items()}

    def forward(self) -> list[Array]:
        """The tops after one forward."""
        self.buffers.workspace = self.scratch(self.form.forward_workspace)
        run = self.form.forward(self.buffers)
        if run is not None:
            run()
        return [np.array(top) for top in self.buffers.tops]

    def backward(self, *top_grads: Array | None) -> tuple[list[Array | None], list[Array]]:
        """The gradients of the bottoms and of the parameters (those begin as 1 each)."""
        b = self.buffers
        b.workspace = self.scratch(self.form.backward_workspace)
        b.top_grads = [
            None if dy is None else self.upload(np.array(dy, np.float32), f"dy{i}")
            for i, dy in enumerate(top_grads)
        ]
        b.bottom_grads = [
            self.room(x.shape, f"dx{i}") if want else None
            for i, (x, want) in enumerate(zip(b.bottoms, self.wanted, strict=True))
        ]
        if self.form.outputs[0].diff_memory is self.nodes[0].inputs[0]:
            b.bottom_grads[0] = b.top_grads[0].reshape(b.bottoms[0].shape)  # type: ignore[union-attr]
        b.param_grads = [self.upload(np.ones_like(param), "dparam") for param in self.params]
        self._poison_what_is_not_read()
        run = self.form.backward(b)
        if run is not None:
            run()
        dx = [None if grad is None else np.array(grad) for grad in b.bottom_grads]
        return dx, [np.array(grad) for grad in b.param_grads]

    def _poison_what_is_not_read(self) -> None:
        b = self.buffers
        for arrays, read, others in (
            (b.bottoms, self.form.backward_bottoms, (b.tops, self.form.backward_tops)),
            (b.tops, self.form.backward_tops, (b.bottoms, self.form.backward_bottoms)),
        ):
            for i, array in enumerate(arrays):
                if read is None or i in read:
                    continue
                kept = [o for j, o in enumerate(others[0]) if others[1] is None or j in others[1]]
                if all(np.shares_memory(array, other) is False for other in kept):
                    self.device.poison(self.device.memory_of(array))

    def check(self, *top_grads: Array | None, rtol: float = 1e-5, atol: float = 1e-6, steps: int = 1) -> None:
        """Asserts that forward, and backward from these gradients, agree with the layers in float64.

        rtol and atol: of each number, and of the largest of its array; steps: how often forward runs.
        """
        layers = self._layers()
        for _ in range(steps):
            tops = self.forward()
            wanted = self._forward(layers)
        _compare("top", tops, wanted, rtol, atol)
        if not top_grads:
            return
        dx, dparams = self.backward(*top_grads)
        grads: list[Array | None] = [None if dy is None else np.array(dy, np.float64) for dy in top_grads]
        for layer in reversed(layers):
            layer.buffers.param_grads = [np.ones_like(param) for param in layer.buffers.params]
            flags = self.wanted if layer is layers[0] else None
            grads = layer.backward(*grads, wanted=flags)
        _compare("gradient of bottom", dx, grads, rtol, atol)
        wanted_params = [grad for layer in layers for grad in layer.param_grads]
        _compare("gradient of parameter", dparams, wanted_params, rtol, atol)

    def _layers(self) -> list[OneLayer]:
        layers: list[OneLayer] = []
        params = [np.array(param, np.float64) for param in self.params]
        bottoms: list[Array] = list(self.given)
        for text, node in zip(self.texts, self.nodes, strict=True):
            taken, params = params[: len(node.params)], params[len(node.params) :]
            layers.append(OneLayer(text, *bottoms, params=taken, dtype=np.float64))
            bottoms = [np.zeros(node.outputs[0].shape)]
        return layers

    def _forward(self, layers: Sequence[OneLayer]) -> list[Array]:
        values: list[Array] = list(self.given)
        for layer in layers:
            for array, value in zip(layer.buffers.bottoms, values, strict=True):
                array[...] = value
            values = [np.array(top) for top in layer.forward()]
        return values


def _compare(what: str, got: Sequence[Any], wanted: Sequence[Any], rtol: float, atol: float) -> None:
    assert len(got) == len(wanted)
    for i, (one, other) in enumerate(zip(got, wanted, strict=True)):
        assert (one is None) == (other is None), f"{what} {i}"
        if one is not None:
            scale = float(np.abs(other[np.isfinite(other)]).max(initial=0))
            np.testing.assert_allclose(
                one, other, rtol=rtol, atol=atol * max(scale, 1e-30), err_msg=f"{what} {i}"
            )


def drawn(*shape: int, seed: int = 0) -> Array:
    """Normal numbers in single precision."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
