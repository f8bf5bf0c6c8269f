"""Runs a chain of layers by a backend's form on a device, and by the layers themselves, and compares.

It keeps a form to its word: what nobody has written is undefined, and so are, before backward, the bottoms
and tops that it does not declare to read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import text_format

from netc.backends.cuda.emulated_device import EmulatedDevice
from netc.backends.form import Form, Maker, Mode
from netc.graph import Build, Graph, Node, State, Value, build_graph
from netc.layer import Buffers
from netc.passes import run_passes
from netc.proto import netc_pb2 as pb

Array = Any


def chain_of(text: str, *shapes: Sequence[int], phase: int = pb.TRAIN, **options: Any) -> list[Node]:
    """The nodes of prototxt layers over inputs x0, x1, ... of these shapes, all gradients wanted."""
    definition = pb.NetParameter(force_backward=True)
    text_format.Parse(text, definition)
    layers = list(definition.layer)
    del definition.layer[:]
    for i, shape in enumerate(shapes):
        layer = definition.layer.add(name=f"x{i}", type="Input", top=[f"x{i}"])
        layer.input_param.shape.add(dim=shape)
    definition.layer.extend(layers)
    graph: Graph = run_passes(build_graph(definition, Build(State(phase), **options)))
    return [node for node in graph.nodes if node.type != "Input"]


class OneChain:
    """A chain with its arrays, by its layers over NumPy and by its form on a device.

    params: the parameters' values in order, random ones unless given; phase: the net's.
    """

    def __init__(
        self,
        device: EmulatedDevice,
        forms: Mapping[tuple[str, ...], Maker],
        text: str,
        *bottoms: Any,
        phase: int = pb.TRAIN,
        params: Sequence[Any] | None = None,
        mode: Mode | None = None,
    ) -> None:
        self.device = device
        self.bottoms = [np.array(bottom, np.float32) for bottom in bottoms]
        self.nodes = chain_of(text, *(bottom.shape for bottom in self.bottoms), phase=phase)
        maker = forms[tuple(node.type for node in self.nodes)]
        self.form: Form | None = maker(self.nodes, mode or Mode(), device)
        random = np.random.default_rng(5)
        owners = [param for node in self.nodes for param in node.params]
        if params is None:
            params = [random.uniform(0.5, 1.5, param.shape) for param in owners]
        self.params = [np.array(values, np.float32) for values in params]
        self.states = {
            name: np.zeros(scratch.shape, scratch.dtype or np.float32)
            for node in self.nodes
            for name, scratch in node.layer.states.items()
        }
        self._expect()
        if self.form is not None:
            self._bind()

    # ---- the layers' own meaning ----
    def _expect(self) -> None:
        self.memory: dict[Value, Array] = {}
        first = iter(self.bottoms)
        for value in dict.fromkeys(value for node in self.nodes for value in node.inputs):
            if value.producer.type == "Input":
                self.memory[value.memory] = next(first).copy()
        params = iter([values.copy() for values in self.params])
        self.layer_states = {name: values.copy() for name, values in self.states.items()}
        self.layer_buffers: dict[Node, Buffers] = {}
        for node in self.nodes:
            for value in node.outputs:
                if value.memory not in self.memory:
                    self.memory[value.memory] = np.full(value.shape, np.nan, np.float32)
            self.layer_buffers[node] = Buffers(
                bottoms=[self._at(value) for value in node.inputs],
                tops=[self._at(value) for value in node.outputs],
                params=[next(params) for _ in node.params],
                saved={
                    name: np.zeros(scratch.shape, scratch.dtype or np.float32)
                    for name, scratch in node.layer.saved.items()
                },
                states={name: self.layer_states[name] for name in node.layer.states},
            )

    def _at(self, value: Value) -> Array:
        return self.memory[value.memory].reshape(value.shape)

    def expected_forward(self) -> list[Array]:
        for node in self.nodes:
            with np.errstate(all="ignore"):
                node.layer.forward(np, self.layer_buffers[node])
        return [self._at(value) for value in self.nodes[-1].outputs]

    def expected_backward(self, top_grads: Sequence[Any]) -> list[Array | None]:
        grads: dict[Value, Array] = {
            value.diff_memory: np.array(grad, np.float32)
            for value, grad in zip(self.nodes[-1].outputs, top_grads, strict=True)
            if grad is not None
        }
        for node in reversed(self.nodes):
            buffers = self.layer_buffers[node]
            buffers.top_grads = [grads.get(value.diff_memory) for value in node.outputs]
            wanted = []
            for value, want in zip(node.inputs, node.input_needs_grad, strict=True):
                if want and value.diff_memory not in grads:
                    grads[value.diff_memory] = np.full(value.shape, np.nan, np.float32)
                wanted.append(grads[value.diff_memory] if want else None)
            buffers.bottom_grads = wanted
            buffers.param_grads = [
                np.ones_like(param) if want else None
                for param, want in zip(buffers.params, node.param_needs_grad, strict=True)
            ]
            with np.errstate(all="ignore"):
                node.layer.backward(np, buffers)
        assert self.form is not None
        return [
            grads[value.diff_memory].reshape(value.shape) if want else None
            for value, want in zip(self.form.inputs, self.form.input_needs_grad, strict=True)
        ]

    @property
    def expected_params(self) -> list[Array]:
        return [param for node in self.nodes for param in self.layer_buffers[node].params]

    @property
    def expected_param_grads(self) -> list[Array | None]:
        return [grad for node in self.nodes for grad in self.layer_buffers[node].param_grads]

    # ---- the form ----
    def room(self, shape: Sequence[int], dtype: Any = None, values: Any = None, name: str = "array") -> Array:
        """An array on the device, undefined unless it is given values."""
        dtype = np.dtype(dtype or np.float32)
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        array = self.device.allocate_array(nbytes, name).view(dtype).reshape(shape)
        memory = self.device.memory_of(array)
        if values is None:
            self.device.poison(memory)
        else:
            self.device.upload(memory, np.ascontiguousarray(np.asarray(values, dtype)))
        return array

    def values(self, array: Array) -> Array:
        """What an array on the device holds."""
        return self.device.download(self.device.memory_of(array), np.empty(array.shape, array.dtype))

    def _bind(self) -> None:
        form = self.form
        assert form is not None
        arrays = {
            value.memory: self.room(value.shape, values=values, name=value.name)
            for value, values in zip(form.inputs, self.bottoms, strict=True)
        }
        for value in form.outputs:
            if value.memory not in arrays:
                arrays[value.memory] = self.room(value.shape, name=value.name)
        self.arrays = arrays
        self.buffers = Buffers(
            bottoms=[arrays[value.memory].reshape(value.shape) for value in form.inputs],
            tops=[arrays[value.memory].reshape(value.shape) for value in form.outputs],
            params=[self.room(values.shape, values=values, name="param") for values in self.params],
            saved={name: self.room(s.shape, s.dtype, name=name) for name, s in form.saved.items()},
            states={name: self.room(s.shape, s.dtype, s, name) for name, s in self.states.items()},
        )
        self.run = self._bound(form.forward_workspace, form.forward)

    def _bound(self, workspace: Mapping[str, Any], make: Any) -> Any:
        self.buffers.workspace = {
            name: self.room(s.shape, s.dtype, name=name) for name, s in workspace.items()
        }
        run = make(self.buffers)
        return run or (lambda: None)

    def forward(self) -> list[Array]:
        """The tops; again for a second pass over the same bottoms."""
        assert self.form is not None
        for value, values in zip(self.form.inputs, self.bottoms, strict=True):
            self.device.upload(self.device.memory_of(self.arrays[value.memory]), values)
        self.run()
        return [self.values(top) for top in self.buffers.tops]

    def backward(self, top_grads: Sequence[Any]) -> list[Array | None]:
        form, b = self.form, self.buffers
        assert form is not None
        grads: dict[Value, Array] = {
            value.diff_memory: self.room(value.shape, values=grad, name=f"d{value.name}")
            for value, grad in zip(form.outputs, top_grads, strict=True)
            if grad is not None
        }
        b.top_grads = [grads.get(value.diff_memory) for value in form.outputs]
        for value, want in zip(form.inputs, form.input_needs_grad, strict=True):
            if want and value.diff_memory not in grads:
                grads[value.diff_memory] = self.room(value.shape, name=f"d{value.name}")
        b.bottom_grads = [
            grads[value.diff_memory].reshape(value.shape) if want else None
            for value, want in zip(form.inputs, form.input_needs_grad, strict=True)
        ]
        b.param_grads = [
            self.room(values.shape, values=np.ones_like(values), name="dparam") if want else None
            for values, want in zip(self.params, form.param_needs_grad, strict=True)
        ]
        run = self._bound(form.backward_workspace, form.backward)
        self._spoil_what_is_not_read()
        run()
        return [None if grad is None else self.values(grad) for grad in b.bottom_grads]

    def _spoil_what_is_not_read(self) -> None:
        form = self.form
        assert form is not None
        kept = set()
        sides = ((form.inputs, form.backward_bottoms), (form.outputs, form.backward_tops))
        for values, read in sides:
            kept |= {v.memory for i, v in enumerate(values) if read is None or i in read}
        for memory, array in self.arrays.items():
            if memory not in kept:
                self.device.poison(self.device.memory_of(array))


def drawn(*shape: int, seed: int = 0) -> Array:
    """Normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check_chain(chain: OneChain, rtol: float = 2e-6, atol: float = 2e-6, passes: int = 1) -> None:
    """Asserts that the form gives the layers' tops, gradients, parameters and states, pass after pass."""
    assert chain.form is not None, "no form fits"
    for _ in range(passes):
        inputs = dict(zip(chain.form.inputs, chain.bottoms, strict=True))
        for value, values in inputs.items():
            chain.memory[value.memory][...] = values
        wanted = [top.copy() for top in chain.expected_forward()]
        for got, want in zip(chain.forward(), wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)
        if chain.form.needs_backward:
            top_grads = [drawn(*top.shape, seed=3) for top in wanted]
            wanted_grads = chain.expected_backward(top_grads)
            got_grads = chain.backward(top_grads)
            pairs = [*zip(got_grads, wanted_grads, strict=True)]
            got_params = [None if g is None else chain.values(g) for g in chain.buffers.param_grads]
            pairs += zip(got_params, chain.expected_param_grads, strict=True)
            for got, want in pairs:
                assert (got is None) == (want is None)
                if want is not None:
                    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)
        for got, want in zip(chain.buffers.params, chain.expected_params, strict=True):
            np.testing.assert_allclose(chain.values(got), want, rtol=rtol, atol=atol)
        for name, state in chain.buffers.states.items():
            np.testing.assert_array_equal(chain.values(state), chain.layer_states[name])
