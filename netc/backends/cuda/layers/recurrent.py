"""RNN, LSTM and LSTMUnit on the device: products of all steps at once where none waits for another, and one
product and one kernel for each step.

T steps, N streams, H hidden values, I inputs; `width` is H for an RNN and 4H for the gates of an LSTM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from netc.backends.cuda.device import Device, Memory, Product
from netc.backends.cuda.device.form import DeviceForm, fits
from netc.backends.cuda.launching import in_order
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES
from netc.backends.cuda.layers.activation import prepare_backward, prepare_forward
from netc.backends.cuda.layers.eltwise import add
from netc.backends.cuda.layers.recurrent_steps import lstm_backward, lstm_forward, rnn_backward, rnn_forward
from netc.backends.cuda.layers.reduce import Sums, sum_channels, sum_middle
from netc.backends.cuda.layers.scale import scale
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Array, Buffers, Scratch

Runs = list[Run | None]


class Recurrent(DeviceForm):
    """What RNN and LSTM have in common: the inputs of all steps, the first states and the last."""

    gates: int  # of a hidden value

    def __init__(self, nodes: Sequence[Node], mode: Mode, device: Device) -> None:
        super().__init__(nodes, device)
        layer: Any = self.node.layer
        self.variant = f"{self.node.type}, step by step"
        self.math = mode.math
        self.steps, self.streams, self.inputs_each = layer.steps, layer.streams, layer.inputs
        self.hidden: int = layer.hidden
        self.width = self.gates * self.hidden
        self.has_static: bool = layer.has_static
        self.statics: int = layer.statics if self.has_static else 0
        self.state_names: Sequence[str] = layer.state_names
        self.exposed: bool = layer.options.expose_hidden
        kept = {name: Scratch((steps, self.streams, size)) for name, (steps, size) in self._kept().items()}
        statics = {"statics": Scratch((self.streams, self.width))} if self.has_static else {}
        trains = mode.backward and self.needs_backward
        self.saved = kept if trains else {}
        self.forward_workspace = statics if trains else {**kept, **statics}
        self.sums = Sums.plan(device, "dy", self.steps * self.streams, self.width, 1)

    def _kept(self) -> Mapping[str, tuple[int, int]]:
        """What forward leaves for backward: how many states of each stream, and their size."""
        raise NotImplementedError

    def _workspace(self) -> dict[str, Scratch]:
        """The backward workspace that both need."""
        over_time = {"over_time": Scratch((self.streams, self.width))} if self.has_static else {}
        product = Scratch((self.streams, self.hidden))
        return {"product": product, **over_time, **self.sums.workspace}

    # ---- products and parts ----
    def _step(self, array: Array, step: int) -> Memory:
        """One step of an array whose first axis is time."""
        whole = self.memory(array)
        nbytes = whole.nbytes // array.shape[0]
        return whole.part(step * nbytes, nbytes)

    def _gemm(
        self,
        shape: tuple[int, int, int],
        a: Memory,
        b: Memory,
        c: Memory,
        bias: Memory | None = None,
        **options: Any,
    ) -> Run:
        product = Product(*shape, math=self.math, bias="column" if bias else None, **options)
        return self.device.bind_gemm(product, a, b, c, bias)

    @property
    def _all(self) -> int:
        """The rows of a matrix of all steps and streams."""
        return self.steps * self.streams

    # ---- forward ----
    def _from_inputs(self, b: Buffers, sums: Memory) -> Runs:
        """sums = W x + b for all steps, and what a static input adds to each."""
        x, weight, bias = self.memory(b.bottoms[0]), self.memory(b.params[0]), self.memory(b.params[1])
        runs: Runs = [
            self._gemm((self._all, self.width, self.inputs_each), x, weight, sums, bias, trans_b=True)
        ]
        if self.has_static:
            shape = (self.streams, self.width, self.statics)
            static, weight = self.memory(b.bottoms[2]), self.memory(b.params[2])
            runs.append(self._gemm(shape, static, weight, self.memory(b.workspace["statics"]), trans_b=True))
        return runs

    def _first_states(self, b: Buffers) -> list[Memory]:
        if self.exposed:
            return [self.memory(state) for state in b.bottoms[len(b.bottoms) - len(self.state_names) :]]
        return [self.memory(b.states[name]) for name in self.state_names]

    def _begin(self, b: Buffers, before: Memory) -> Run:
        """before = the first h, or nothing of it where a stream begins anew."""
        h, cont = self._first_states(b)[0], self._step(b.bottoms[1], 0)
        return scale(self.device, self.streams, self.hidden, h, before, by=cont)

    def _add_product(self, before: Memory, weight: Memory, sums: Memory) -> Run:
        """sums += before W transposed, for one step."""
        return self._gemm((self.streams, self.width, self.hidden), before, weight, sums, trans_b=True, beta=1)

    def _next(self, b: Buffers, kept: Mapping[str, Array], step: int) -> tuple[Memory | None, Memory | None]:
        """The next step's cont, and where what it multiplies goes; None after the last step."""
        if step + 1 == self.steps:
            return None, None
        return self._step(b.bottoms[1], step + 1), self._step(kept["before"], step + 1)

    def _hand_on(self, b: Buffers, last: Sequence[Memory]) -> Runs:
        """Keeps the last states for the next forward, or gives them out."""
        kept = b.tops[1:] if self.exposed else [b.states[name] for name in self.state_names]
        return [
            add(self.device, [state], self.memory(place)) for place, state in zip(kept, last, strict=True)
        ]

    # ---- backward ----
    def _product_back(self, dsums: Memory, weight: Memory, b: Buffers) -> Run:
        """product = dsums W, for one step."""
        shape = (self.streams, self.hidden, self.width)
        return self._gemm(shape, dsums, weight, self.memory(b.workspace["product"]))

    def _later(self, b: Buffers, step: int) -> tuple[Memory | None, Memory | None]:
        """What came back through the next step's weights, and its cont; None for the last step."""
        if step + 1 == self.steps:
            return None, None
        return self.memory(b.workspace["product"]), self._step(b.bottoms[1], step + 1)

    def _weight_gradient(
        self, dsums: Memory, inputs: Memory, size: int, rows: int, grad: Array | None
    ) -> Run | None:
        """grad += dsums transposed times the inputs, over so many rows of them."""
        if grad is None:
            return None
        shape = (dsums.nbytes // FLOAT_BYTES // rows, size, rows)
        return self._gemm(shape, dsums, inputs, self.memory(grad), trans_a=True, beta=1)

    def _bias_gradient(self, b: Buffers, sums: Sums, dsums: Memory, grad: Array | None) -> Run | None:
        if grad is None:
            return None
        shares = self.memory_if(b.workspace.get("shares"))
        return sum_channels(self.device, sums, dsums, None, shares, self.memory(grad))

    def _to_inputs(self, b: Buffers, dsums: Memory) -> Runs:
        """The gradients of what `_from_inputs` reads; those of the first states are zeros, as in Caffe."""
        x, dx = self.memory(b.bottoms[0]), _gradient(b, 0)
        runs: Runs = [
            self._weight_gradient(dsums, x, self.inputs_each, self._all, b.param_grads[0]),
            self._bias_gradient(b, self.sums, dsums, b.param_grads[1]),
        ]
        if dx is not None:
            shape = (self._all, self.inputs_each, self.width)
            runs.append(self._gemm(shape, dsums, self.memory(b.params[0]), self.memory(dx)))
        for dfirst in b.bottom_grads[3 if self.has_static else 2 :]:
            if dfirst is not None:
                runs.append(partial(self.device.fill, self.memory(dfirst)))
        return runs + (self._to_static(b, dsums) if self.has_static else [])

    def _to_static(self, b: Buffers, dsums: Memory) -> Runs:
        over_time, dstatic = self.memory(b.workspace["over_time"]), _gradient(b, 2)
        static = self.memory(b.bottoms[2])
        runs: Runs = [
            sum_middle(self.device, 1, self.steps, self.streams * self.width, dsums, over_time),
            self._weight_gradient(over_time, static, self.statics, self.streams, b.param_grads[2]),
        ]
        if dstatic is not None:
            shape = (self.streams, self.statics, self.width)
            runs.append(self._gemm(shape, over_time, self.memory(b.params[2]), self.memory(dstatic)))
        return runs

    def flops(self) -> int:
        return 2 * self._all * self.width * (self.inputs_each + self.hidden)


class LSTM(Recurrent):
    """Each step turns its gates from sums into activations, where they lie."""

    gates = 4

    def __init__(self, nodes: Sequence[Node], mode: Mode, device: Device) -> None:
        super().__init__(nodes, mode, device)
        dgates = Scratch((self.steps, self.streams, self.width))
        dc = Scratch((self.streams, self.hidden))
        self.backward_workspace = {"dgates": dgates, "dc": dc, **self._workspace()}

    def _kept(self) -> Mapping[str, tuple[int, int]]:
        # c[t] is the state before step t, before[t] what step t multiplies with its weights.
        steps, hidden = self.steps, self.hidden
        return {"c": (steps + 1, hidden), "before": (steps, hidden), "gates": (steps, self.width)}

    def forward(self, b: Buffers) -> Run | None:
        kept = {**b.saved, **b.workspace}
        weight, statics = self.memory(b.params[-1]), self.memory_if(b.workspace.get("statics"))
        runs = self._from_inputs(b, self.memory(kept["gates"]))
        runs.append(self._begin(b, self._step(kept["before"], 0)))
        runs.append(add(self.device, [self._first_states(b)[1]], self._step(kept["c"], 0)))
        for t in range(self.steps):
            gates = self._step(kept["gates"], t)
            cont, (c_prev, c) = self._step(b.bottoms[1], t), self._around(kept["c"], t)
            runs.append(self._add_product(self._step(kept["before"], t), weight, gates))
            state = (gates, statics, cont, c_prev, gates, c, self._step(b.tops[0], t))
            runs.append(lstm_forward(self.device, self.hidden, *state, *self._next(b, kept, t)))
        last = [self._step(b.tops[0], self.steps - 1), self._step(kept["c"], self.steps)]
        return in_order(*runs + self._hand_on(b, last))

    def backward(self, b: Buffers) -> Run | None:
        weight, dc = self.memory(b.params[-1]), self.memory(b.workspace["dc"])
        runs: Runs = []
        for t in reversed(range(self.steps)):
            dgates = self._step(b.workspace["dgates"], t)
            dy = None if b.top_grads[0] is None else self._step(b.top_grads[0], t)
            state = (self._step(b.saved["gates"], t), *self._around(b.saved["c"], t))
            given = (dc if t + 1 < self.steps else None, dy, *self._later(b, t))
            runs.append(lstm_backward(self.device, self.hidden, *state, *given, dgates, dc))
            if t:
                runs.append(self._product_back(dgates, weight, b))
        dgates, before = self.memory(b.workspace["dgates"]), self.memory(b.saved["before"])
        runs.append(self._weight_gradient(dgates, before, self.hidden, self._all, b.param_grads[-1]))
        return in_order(*runs + self._to_inputs(b, dgates))

    def _around(self, states: Array, step: int) -> tuple[Memory, Memory]:
        """The states before and after a step."""
        return self._step(states, step), self._step(states, step + 1)


class RNN(Recurrent):
    """h of all steps first holds what their inputs add; each step turns its own into the state."""

    gates = 1

    def __init__(self, nodes: Sequence[Node], mode: Mode, device: Device) -> None:
        super().__init__(nodes, mode, device)
        states = Scratch((self.steps, self.streams, self.hidden))
        self.backward_workspace = {"do": states, "dsums": states, **self._workspace()}

    def _kept(self) -> Mapping[str, tuple[int, int]]:
        return dict.fromkeys(("h", "before", "y"), (self.steps, self.hidden))

    def forward(self, b: Buffers) -> Run | None:
        kept = {**b.saved, **b.workspace}
        w_hh, w_ho, b_o = map(self.memory, b.params[-3:])
        statics = self.memory_if(b.workspace.get("statics"))
        h, y, top = self.memory(kept["h"]), self.memory(kept["y"]), self.memory(b.tops[0])
        runs = self._from_inputs(b, h)
        runs.append(self._begin(b, self._step(kept["before"], 0)))
        for t in range(self.steps):
            state = self._step(kept["h"], t)
            runs.append(self._add_product(self._step(kept["before"], t), w_hh, state))
            runs.append(rnn_forward(self.device, self.hidden, statics, state, *self._next(b, kept, t)))
        runs.append(self._gemm((self._all, self.hidden, self.hidden), h, w_ho, y, b_o, trans_b=True))
        runs.append(prepare_forward(self.device, "TanH", y, y))
        runs.append(add(self.device, [y], top))
        return in_order(*runs + self._hand_on(b, [self._step(kept["h"], self.steps - 1)]))

    def backward(self, b: Buffers) -> Run | None:
        w_hh, w_ho = map(self.memory, b.params[-3:-1])
        h, y, do, whole = map(
            self.memory, (b.saved["h"], b.saved["y"], b.workspace["do"], b.workspace["dsums"])
        )
        runs: Runs = [partial(self.device.fill, do)]
        if b.top_grads[0] is not None:
            runs = [prepare_backward(self.device, "TanH", None, y, self.memory(b.top_grads[0]), do)]
        runs.append(self._weight_gradient(do, h, self.hidden, self._all, b.param_grads[-2]))
        runs.append(self._bias_gradient(b, self.sums, do, b.param_grads[-1]))
        runs.append(self._gemm((self._all, self.hidden, self.hidden), do, w_ho, whole))
        for t in reversed(range(self.steps)):
            dsums, state = self._step(b.workspace["dsums"], t), self._step(b.saved["h"], t)
            runs.append(rnn_backward(self.device, self.hidden, state, *self._later(b, t), dsums))
            if t:
                runs.append(self._product_back(dsums, w_hh, b))
        before = self.memory(b.saved["before"])
        runs.append(self._weight_gradient(whole, before, self.hidden, self._all, b.param_grads[-3]))
        return in_order(*runs + self._to_inputs(b, whole))

    def flops(self) -> int:
        return super().flops() + 2 * self._all * self.hidden * self.hidden


class LSTMUnit(DeviceForm):
    """One step of an LSTM, its gates' sums and their activations apart."""

    variant = "lstm_forward"

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        super().__init__(nodes, device)
        self.hidden = self.inputs[0].shape[2]

    def forward(self, b: Buffers) -> Run | None:
        c_prev, sums, cont = map(self.memory, b.bottoms)
        gates, (c, h) = self.memory(b.saved["gates"]), map(self.memory, b.tops)
        return lstm_forward(self.device, self.hidden, sums, None, cont, c_prev, gates, c, h)

    def backward(self, b: Buffers) -> Run | None:
        gates, c_prev, c = map(self.memory, (b.saved["gates"], b.bottoms[0], b.tops[0]))
        dc, dh = map(self.memory_if, b.top_grads)
        dc_prev, dgates = map(self.memory_if, b.bottom_grads[:2])
        state = (gates, c_prev, c)
        return lstm_backward(self.device, self.hidden, *state, dc, dh, None, None, dgates, dc_prev)


def make_lstm(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    return LSTM(nodes, mode, device) if fits(nodes) else None


def make_rnn(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    return RNN(nodes, mode, device) if fits(nodes) else None


def make_lstm_unit(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    return LSTMUnit(nodes, device) if fits(nodes) else None


def _gradient(b: Buffers, bottom: int) -> Array | None:
    """Where the gradient of a bottom goes, wanted or left over."""
    return b.bottom_grads[bottom] if b.bottom_grads[bottom] is not None else b.leftovers.get(bottom)


FORMS: dict[tuple[str, ...], Maker] = {
    ("LSTM",): make_lstm,
    ("RNN",): make_rnn,
    ("LSTMUnit",): make_lstm_unit,
}
