"""Runs a chain of layers by a backend's form on a device, and by the layers themselves in double precision,
and compares.

It keeps a form to its word: what nobody has written is undefined, and so are, before backward, the bottoms
and tops that it does not declare to read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from google.protobuf import text_format

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.form import NHWC, PLAIN, Form, Maker, Mode
from netc.graph import Build, Graph, Node, State, Value, build_graph
from netc.layer import Buffers, layer_class
from netc.passes import run_passes
from netc.proto import netc_pb2 as pb

Array = Any
# Whole `layer { ... }` messages over x0, x1, ..., or the bodies of layers.
Text = str | Sequence[str]


def chain_of(text: Text, *shapes: Sequence[int], phase: int = pb.TRAIN, **options: Any) -> list[Node]:
    """The nodes of prototxt layers over inputs x0, x1, ... of these shapes, all gradients wanted.

    Of bodies each layer reads the one before; one whose first bottom and top are named alike is in place.
    """
    definition = pb.NetParameter(force_backward=True)
    for i, shape in enumerate(shapes):
        layer = definition.layer.add(name=f"x{i}", type="Input", top=[f"x{i}"])
        layer.input_param.shape.add(dim=shape)
    if isinstance(text, str) and text.lstrip().startswith("layer"):
        text_format.Merge(text, definition)
    else:
        _add_bodies(definition, [text] if isinstance(text, str) else text, len(shapes))
    graph: Graph = run_passes(build_graph(definition, Build(State(phase), **options)))
    return [node for node in graph.nodes if node.type != "Input"]


def _add_bodies(definition: pb.NetParameter, bodies: Sequence[str], inputs: int) -> None:
    bottoms = [f"x{i}" for i in range(inputs)]
    for i, body in enumerate(bodies):
        layer = text_format.Parse(body, definition.layer.add(name=f"layer{i}"))
        in_place = bool(layer.bottom) and layer.bottom[0] == layer.top[0]
        tops = [f"y{i}.{j}" for j in range(len(layer.top) or layer_class(layer.type).tops.least)]
        layer.bottom[:], layer.top[:] = bottoms, [bottoms[0], *tops[1:]] if in_place else tops
        bottoms = [layer.top[0]]


class OneChain:
    """A chain with its arrays, by its layers over NumPy and by its form on a device.

    forms: a backend's table, or what makes the form; params: the parameters' values in order, random ones
    unless given; wanted: which bottoms want gradients, unless all that can have one; phase: the net's; skew:
    bytes by which arrays of floats miss an aligned address; layout: the mode's, in which bottoms of four axes
    lie already when the form is made; arrays then lie as the form says.
    """

    def __init__(
        self,
        device: EmulatedDevice,
        forms: Mapping[tuple[str, ...], Maker] | Maker,
        text: Text,
        *bottoms: Any,
        params: Sequence[Any] | None = None,
        wanted: Sequence[bool] | None = None,
        phase: int = pb.TRAIN,
        mode: Mode | None = None,
        skew: int = 0,
        layout: str = PLAIN,
    ) -> None:
        self.device, self.skew = device, skew
        self.bottoms = [np.array(bottom, np.float32) for bottom in bottoms]
        shapes = [bottom.shape for bottom in self.bottoms]
        self.nodes = chain_of(text, *shapes, phase=phase)
        self.layers = chain_of(text, *shapes, phase=phase, dtype=np.float64)
        if wanted is not None:
            self.nodes[0].input_needs_grad = self.layers[0].input_needs_grad = list(wanted)
        maker = forms if callable(forms) else forms[tuple(node.type for node in self.nodes)]
        self.mode = replace(mode or Mode(), layout=layout)
        for value in (value for node in self.nodes for value in node.inputs):
            if value.producer.type == "Input" and len(value.shape) == 4:
                value.layout = layout
        made = maker(self.nodes, self.mode, device)
        assert made is not None, "no form fits"
        self.form: Form = made
        random = np.random.default_rng(5)
        owners = [param for node in self.nodes for param in node.params]
        if params is None:
            params = [random.uniform(0.5, 1.5, param.shape) for param in owners]
        self.params = [np.array(values, np.float32) for values in params]
        self._expect()
        self._bind()

    # ---- the layers' own meaning ----
    def _expect(self) -> None:
        self.memory: dict[Value, Array] = {}
        read = dict.fromkeys(value for node in self.layers for value in node.inputs)
        self.inputs = [value for value in read if value.producer.type == "Input"]
        for value, values in zip(self.inputs, self.bottoms, strict=True):
            self.memory[value.memory] = values.astype(np.float64)
        params = iter([values.astype(np.float64) for values in self.params])
        self.layer_states: dict[str, Array] = {}
        self.layer_buffers: dict[Node, Buffers] = {}
        for node in self.layers:
            for value in node.outputs:
                if value.memory not in self.memory:
                    self.memory[value.memory] = np.full(value.shape, np.nan)
            states = _zeros(node.layer.states)
            self.layer_states |= states
            self.layer_buffers[node] = Buffers(
                bottoms=[self._at(value) for value in node.inputs],
                tops=[self._at(value) for value in node.outputs],
                params=[next(params) for _ in node.params],
                saved=_zeros(node.layer.saved),
                states=states,
            )

    def _at(self, value: Value) -> Array:
        return self.memory[value.memory].reshape(value.shape)

    def expected_forward(self) -> list[Array]:
        """The layers' tops; again for a second pass over the same bottoms."""
        for value, values in zip(self.inputs, self.bottoms, strict=True):
            self._at(value)[...] = values
        for node in self.layers:
            with np.errstate(all="ignore"):
                node.layer.forward(np, self.layer_buffers[node])
        return [self._at(value) for value in self.layers[-1].outputs]

    def expected_backward(self, top_grads: Sequence[Any]) -> list[Array | None]:
        """The layers' gradients of the bottoms from outside."""
        grads: dict[Value, Array] = {
            value.diff_memory: np.array(grad, np.float64)
            for value, grad in zip(self.layers[-1].outputs, top_grads, strict=True)
            if grad is not None
        }
        found: dict[Value, Array | None] = {}
        for node in reversed(self.layers):
            buffers = self.layer_buffers[node]
            buffers.top_grads = [grads.get(value.diff_memory) for value in node.outputs]
            wanted = []
            for value, want in zip(node.inputs, node.input_needs_grad, strict=True):
                if want and value.diff_memory not in grads:
                    grads[value.diff_memory] = np.full(value.shape, np.nan)
                wanted.append(grads[value.diff_memory].reshape(value.shape) if want else None)
                found[value] = wanted[-1]
            buffers.bottom_grads = wanted
            buffers.param_grads = [
                np.ones_like(param) if want else None
                for param, want in zip(buffers.params, node.param_needs_grad, strict=True)
            ]
            with np.errstate(all="ignore"):
                node.layer.backward(np, buffers)
        return [found[value] for value in self.inputs]

    @property
    def expected_params(self) -> list[Array]:
        return [param for node in self.layers for param in self.layer_buffers[node].params]

    @property
    def expected_param_grads(self) -> list[Array | None]:
        return [grad for node in self.layers for grad in self.layer_buffers[node].param_grads]

    # ---- the form ----
    def room(
        self,
        shape: Sequence[int],
        dtype: Any = None,
        values: Any = None,
        name: str = "array",
        layout: str = PLAIN,
    ) -> Array:
        """An array on the device, undefined unless it is given values."""
        if layout == NHWC:
            n, c, h, w = shape
            turned = None if values is None else np.asarray(values).transpose(0, 2, 3, 1)
            return self.room((n, h, w, c), dtype, turned, name).transpose(0, 3, 1, 2)
        dtype = np.dtype(dtype or np.float32)
        skew = self.skew if dtype == np.float32 else 0
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        array = self.device.allocate_array(nbytes + skew, name)[skew:].view(dtype).reshape(shape)
        memory = self.device.memory_of(array)
        if values is None:
            self.device.poison(memory)
        else:
            self.device.upload(memory, np.ascontiguousarray(np.asarray(values, dtype)))
        return array

    def values(self, array: Array) -> Array:
        """What an array on the device holds."""
        if not array.flags.c_contiguous:
            return self.values(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        return self.device.download(self.device.memory_of(array), np.empty(array.shape, array.dtype))

    def _bind(self) -> None:
        form = self.form
        self.layouts = {
            **_layouts(form.outputs, form.top_layouts),
            **_layouts(form.inputs, form.bottom_layouts),
        }
        arrays = {
            value.memory: self.room(value.shape, None, values, value.name, self.layouts[value])
            for value, values in zip(form.inputs, self.bottoms, strict=True)
        }
        for value in form.outputs:
            if value.memory not in arrays:
                arrays[value.memory] = self.room(value.shape, name=value.name, layout=self.layouts[value])
        self.arrays = arrays
        self.workspaces: list[dict[str, Array]] = []
        states = [item for node in self.nodes for item in node.layer.states.items()]
        self.buffers = Buffers(
            bottoms=[arrays[value.memory].reshape(value.shape) for value in form.inputs],
            tops=[arrays[value.memory].reshape(value.shape) for value in form.outputs],
            params=[self.room(values.shape, values=values, name="param") for values in self.params],
            saved={name: self.room(s.shape, s.dtype, name=name) for name, s in form.saved.items()},
            states={name: self.room(s.shape, s.dtype, np.zeros(s.shape), name) for name, s in states},
        )
        self.run = self._bound(form.forward_workspace, form.forward)

    def _bound(self, workspace: Mapping[str, Any], make: Any) -> Any:
        self.buffers.workspace = {
            name: self.room(s.shape, s.dtype, name=name) for name, s in workspace.items()
        }
        self.workspaces.append(self.buffers.workspace)  # what was bound before may run again
        run = make(self.buffers)
        return run or (lambda: None)

    def forward(self) -> list[Array]:
        """The tops; again for a second pass over the same bottoms."""
        for value, values in zip(self.form.inputs, self.bottoms, strict=True):
            turned = values.transpose(0, 2, 3, 1) if self.layouts[value] == NHWC else values
            self.device.upload(self.device.memory_of(self.arrays[value.memory]), turned)
        self.run()
        return [self.values(top) for top in self.buffers.tops]

    def backward(self, top_grads: Sequence[Any]) -> list[Array | None]:
        """The bottoms' gradients; those of the parameters, which begin as 1, are added to."""
        form, b = self.form, self.buffers
        grads: dict[Value, Array] = {
            value.diff_memory: self.room(value.shape, None, grad, f"d{value.name}", self.layouts[value])
            for value, grad in zip(form.outputs, top_grads, strict=True)
            if grad is not None
        }
        b.top_grads = [grads.get(value.diff_memory) for value in form.outputs]
        for value, want in zip(form.inputs, form.input_needs_grad, strict=True):
            if want and value.diff_memory not in grads:
                layout = self.layouts[value]
                grads[value.diff_memory] = self.room(value.shape, name=f"d{value.name}", layout=layout)
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
        kept = set()
        sides = ((form.inputs, form.backward_bottoms), (form.outputs, form.backward_tops))
        for values, read in sides:
            kept |= {v.memory for i, v in enumerate(values) if read is None or i in read}
        for memory, array in self.arrays.items():
            if memory not in kept:
                self.device.poison(self.device.memory_of(array))

    # ---- both ----
    def check(
        self,
        *top_grads: Any,
        rtol: float = 1e-5,
        atol: float = 1e-6,
        passes: int = 1,
    ) -> None:
        """Asserts that the form gives the layers' tops, gradients, parameters and states, pass after pass.

        top_grads: the tops' gradients, random ones unless given; rtol, atol: of each number, and of the
        largest of its array.
        """
        for _ in range(passes):
            wanted = [top.copy() for top in self.expected_forward()]
            _compare("top", self.forward(), wanted, rtol, atol)
            if self.form.needs_backward and self.mode.backward:
                grads = top_grads or [drawn(*top.shape, seed=3) for top in wanted]
                expected = self.expected_backward(grads)
                _compare("gradient of bottom", self.backward(grads), expected, rtol, atol)
                got = [None if grad is None else self.values(grad) for grad in self.buffers.param_grads]
                _compare("gradient of parameter", got, self.expected_param_grads, rtol, atol)
            params = [self.values(param) for param in self.buffers.params]
            _compare("parameter", params, self.expected_params, rtol, atol)
            for name, state in self.buffers.states.items():
                _compare(f"state {name}", [self.values(state)], [self.layer_states[name]], rtol, atol)


def _layouts(values: Sequence[Value], layouts: Sequence[str] | None) -> dict[Value, str]:
    return dict(zip(values, layouts or [PLAIN] * len(values), strict=True))


def _zeros(arrays: Mapping[str, Any]) -> dict[str, Array]:
    return {name: np.zeros(scratch.shape, scratch.dtype or np.float64) for name, scratch in arrays.items()}


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
