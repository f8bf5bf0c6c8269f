"""Layers over sequences: RNN and LSTM, one layer each that walks through time, and LSTMUnit, one step of an
LSTM.

T time steps, N streams side by side, H = num_output hidden values, I inputs of a step. `cont` (T, N) is 0
where a stream begins anew and 1 where it goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

from netc.layer.activation import sigmoid
from netc.layer.base import Arity, Array, Buffers, Layer, ParamBlob, Scratch, Shape, count
from netc.layer.registry import register


class Recurrent(Layer):
    """What RNN and LSTM have in common: their bottoms, their parameters and how state is carried.

    Bottoms: x (T, N, ...); cont (T, N); optionally a static input (N, ...) that every step sees; with
    `expose_hidden` the first states, each (1, N, H). Tops: y (T, N, H); with `expose_hidden` the last states.

    Without `expose_hidden` the states of the last step stay, and the next forward begins with them where cont
    is 1 in its first step. Gradients never cross from one forward to another: as in Caffe, with
    `expose_hidden` too, the first states get zeros, and a gradient given to the last states is lost.
    """

    options_field = "recurrent_param"
    bottoms = Arity(2, 5)
    tops = Arity(1, 3)
    backward_tops = ()
    state_names: ClassVar[tuple[str, ...]]  # what is carried from step to step, as in Caffe: h, or h and c

    def gives_gradient(self, bottom: int) -> bool:
        return bottom != 1

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        exposed = len(self.state_names) if self.options.expose_hidden else 0
        self.has_static = len(bottoms) == 3 + exposed
        self._check_counts(exposed)
        self._check_sequence(bottoms)
        x = bottoms[0]
        self.steps, self.streams, self.inputs = x[0], x[1], count(x[2:])
        self.hidden: int = self.options.num_output
        state = (1, self.streams, self.hidden)
        if self.has_static:
            self._check_static(bottoms[2])
            self.statics = count(bottoms[2][1:])
        for shape, name in zip(bottoms[len(bottoms) - exposed :], self.state_names, strict=False):
            if exposed and shape != state:
                raise self.error(
                    f"the first state {name} has the wrong shape", expected=list(state), found=list(shape)
                )
        if not exposed:
            self.states = {name: Scratch(state) for name in self.state_names}
        self.backward_bottoms = (0, 1, 2) if self.has_static else (0, 1)
        self.leftovers = (0, 2) if self.has_static else (0,)  # Caffe works these out, asked or not
        self.params = self._params()
        self.saved = self._saved()
        return [(self.steps, self.streams, self.hidden)] + [state] * exposed

    def _params(self) -> list[ParamBlob]:
        raise NotImplementedError

    def _saved(self) -> dict[str, Scratch]:
        raise NotImplementedError

    def _check_counts(self, exposed: int) -> None:
        if self.options.num_output < 1:
            raise self.error("num_output must be at least 1", "num_output", found=self.options.num_output)
        given = len(self.spec.bottom)
        if not 2 + exposed <= given <= 3 + exposed:
            states = f" and the first {' and '.join(self.state_names)}" if exposed else ""
            raise self.error(
                "wrong number of bottoms",
                "expose_hidden" if self.options.expose_hidden else "num_output",
                expected=f"x, cont, perhaps a static input{states}: {2 + exposed} or {3 + exposed}",
                found=given,
                remedy="add the first states" if exposed else "set expose_hidden: true to give first states",
            )
        if len(self.spec.top) != 1 + exposed:
            raise self.error(
                "wrong number of tops",
                expected=f"y and the last {' and '.join(self.state_names)}" if exposed else "y alone",
                found=f"{len(self.spec.top)} ({', '.join(self.spec.top)})",
                remedy=None if exposed else "set expose_hidden: true to have the last states as tops",
            )

    def _check_sequence(self, bottoms: Sequence[Shape]) -> None:
        x, cont = bottoms[0], bottoms[1]
        if len(x) < 2:
            raise self.error(
                "a sequence needs a time axis and a stream axis", expected="T x N x ...", found=list(x)
            )
        if cont != x[:2]:
            raise self.error(
                "cont does not fit the sequence",
                blob=self.spec.bottom[1],
                expected=f"T x N, as in the first bottom: {list(x[:2])}",
                found=list(cont),
            )

    def _check_static(self, static: Shape) -> None:
        if not static or static[0] != self.streams:
            raise self.error(
                "the static input needs one row for each stream",
                blob=self.spec.bottom[2],
                expected=f"{self.streams} x ...",
                found=list(static),
            )

    def _first_states(self, b: Buffers) -> list[Array]:
        """The states (N, H) that come before the first step."""
        if not self.options.expose_hidden:
            return [b.states[name][0] for name in self.state_names]
        return [state[0] for state in b.bottoms[len(b.bottoms) - len(self.state_names) :]]

    def _hand_on(self, b: Buffers, last: Sequence[Array]) -> None:
        """Keeps the last states for the next forward, or gives them out."""
        kept = b.tops[1:] if self.options.expose_hidden else [b.states[name] for name in self.state_names]
        for place, state in zip(kept, last, strict=True):
            place[0] = state

    def _from_inputs(self, xp: ModuleType, b: Buffers) -> Array:
        """What every step adds that does not hang on the step before: W x + b (+ W_static x_static)."""
        sums = xp.matmul(b.bottoms[0].reshape(-1, self.inputs), b.params[0].T)
        sums += b.params[1]
        sums = sums.reshape(self.steps, self.streams, -1)
        if self.has_static:
            sums += xp.matmul(b.bottoms[2].reshape(self.streams, self.statics), b.params[2].T)
        return sums

    def _to_inputs(self, xp: ModuleType, b: Buffers, dsums: Array) -> None:
        """The gradients of what `_from_inputs` reads, from those of its sums (T, N, width)."""
        flat = dsums.reshape(self.steps * self.streams, -1)
        _add(b.param_grads[0], lambda: xp.matmul(flat.T, b.bottoms[0].reshape(-1, self.inputs)))
        _add(b.param_grads[1], lambda: flat.sum(axis=0))
        if (dx := _gradient(b, 0)) is not None:
            xp.matmul(flat, b.params[0], out=dx.reshape(-1, self.inputs))
        for dfirst in b.bottom_grads[3 if self.has_static else 2 :]:
            if dfirst is not None:
                dfirst[...] = 0
        if not self.has_static:
            return
        over_time = dsums.sum(axis=0)
        static = b.bottoms[2].reshape(self.streams, self.statics)
        _add(b.param_grads[2], lambda: xp.matmul(over_time.T, static))
        if (dstatic := _gradient(b, 2)) is not None:
            xp.matmul(over_time, b.params[2], out=dstatic.reshape(self.streams, self.statics))

    def _resets(self, b: Buffers) -> Array:
        """cont as (T, N, 1), to multiply the states with."""
        return b.bottoms[1][:, :, None]


@register
class RNN(Recurrent):
    """h_t = tanh(W_hh cont_t h_(t-1) + W_xh x_t + b_h), y_t = tanh(W_ho h_t + b_o).  (Elman, 1990)

    Parameters: W_xh (H, I), b_h (H), with a static input W_xh_static (H, its size), W_hh (H, H), W_ho (H, H),
    b_o (H).
    """

    type = "RNN"
    state_names = ("h",)

    def _params(self) -> list[ParamBlob]:
        weight, bias = self.option("weight_filler"), self.option("bias_filler")
        h = self.hidden
        static = [ParamBlob((h, self.statics), weight)] if self.has_static else []
        return [
            ParamBlob((h, self.inputs), weight),
            ParamBlob((h,), bias),
            *static,
            ParamBlob((h, h), weight),
            ParamBlob((h, h), weight),
            ParamBlob((h,), bias),
        ]

    def _saved(self) -> dict[str, Scratch]:
        shape = (self.steps, self.streams, self.hidden)
        return {"h": Scratch((self.steps + 1, *shape[1:])), "y": Scratch(shape)}

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        w_hh, w_ho, b_o = b.params[-3:]
        resets, h = self._resets(b), b.saved["h"]  # h[t] is the state before step t
        h[0] = self._first_states(b)[0]
        sums = self._from_inputs(xp, b)
        for t in range(self.steps):
            sums[t] += xp.matmul(h[t] * resets[t], w_hh.T)
            xp.tanh(sums[t], out=h[t + 1])
        y = xp.matmul(h[1:].reshape(-1, self.hidden), w_ho.T)
        y += b_o
        xp.tanh(y.reshape(b.saved["y"].shape), out=b.saved["y"])
        b.tops[0][...] = b.saved["y"]
        self._hand_on(b, [h[-1]])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        w_hh, w_ho = b.params[-3:-1]
        resets, h, y, width = self._resets(b), b.saved["h"], b.saved["y"], self.hidden
        dy = b.top_grads[0]
        do = (dy * (1 - y * y) if dy is not None else xp.zeros_like(y)).reshape(-1, width)
        _add(b.param_grads[-2], lambda: xp.matmul(do.T, h[1:].reshape(-1, width)))
        _add(b.param_grads[-1], lambda: do.sum(axis=0))
        dsums = xp.matmul(do, w_ho).reshape(y.shape)  # first of h_t, then of the sum under its tanh
        for t in reversed(range(self.steps)):
            dsums[t] *= 1 - h[t + 1] * h[t + 1]
            if t:
                dsums[t - 1] += xp.matmul(dsums[t], w_hh) * resets[t]
        before = (h[:-1] * resets).reshape(-1, width)
        _add(b.param_grads[-3], lambda: xp.matmul(dsums.reshape(-1, width).T, before))
        self._to_inputs(xp, b, dsums)


@register
class LSTM(Recurrent):
    """Long short-term memory: LSTMUnit at every step, on gates W_hc cont_t h_(t-1) + W_xc x_t + b_c.
    (Hochreiter and Schmidhuber, 1997; without peepholes, as Donahue et al., "Long-term recurrent
    convolutional networks", 2015)

    Parameters: W_xc (4H, I), b_c (4H), with a static input W_xc_static (4H, its size), W_hc (4H, H); rows in
    the order i, f, o, g.
    """

    type = "LSTM"
    state_names = ("h", "c")

    def _params(self) -> list[ParamBlob]:
        weight, bias = self.option("weight_filler"), self.option("bias_filler")
        rows = 4 * self.hidden
        static = [ParamBlob((rows, self.statics), weight)] if self.has_static else []
        return [
            ParamBlob((rows, self.inputs), weight),
            ParamBlob((rows,), bias),
            *static,
            ParamBlob((rows, self.hidden), weight),
        ]

    def _saved(self) -> dict[str, Scratch]:
        states = Scratch((self.steps + 1, self.streams, self.hidden))
        return {"h": states, "c": states, "gates": Scratch((self.steps, self.streams, 4 * self.hidden))}

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        w_hc, resets = b.params[-1], self._resets(b)
        h, c, gates = b.saved["h"], b.saved["c"], b.saved["gates"]  # h[t], c[t]: the states before step t
        h[0], c[0] = self._first_states(b)
        gates[...] = self._from_inputs(xp, b)
        for t in range(self.steps):
            gates[t] += xp.matmul(h[t] * resets[t], w_hc.T)
            step_forward(xp, gates[t], resets[t], c[t], c[t + 1], h[t + 1])
        b.tops[0][...] = h[1:]
        self._hand_on(b, [h[-1], c[-1]])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        w_hc, resets = b.params[-1], self._resets(b)
        h, c, gates = b.saved["h"], b.saved["c"], b.saved["gates"]
        dy = b.top_grads[0]
        dgates = xp.empty_like(gates)
        dc = xp.zeros_like(c[0])
        dh = xp.zeros_like(h[0])
        for t in reversed(range(self.steps)):
            if dy is not None:
                dh += dy[t]
            dc = step_backward(xp, gates[t], c[t], c[t + 1], dc, dh, dgates[t])
            dh = xp.matmul(dgates[t], w_hc) * resets[t]
        before = (h[:-1] * resets).reshape(-1, self.hidden)
        _add(b.param_grads[-1], lambda: xp.matmul(dgates.reshape(-1, 4 * self.hidden).T, before))
        self._to_inputs(xp, b, dgates)


@register
class LSTMUnit(Layer):
    """One step of an LSTM: c = cont sigmoid(f) c_prev + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c).

    Bottoms: c_prev (1, N, H); the gates i, f, o, g side by side (1, N, 4H); cont (1, N). Tops: c, h, both
    (1, N, H). cont gets no gradient. (Hochreiter and Schmidhuber, 1997)
    """

    type = "LSTMUnit"
    bottoms = Arity(3)
    tops = Arity(2)
    backward_bottoms = (0,)
    backward_tops = (0,)

    def gives_gradient(self, bottom: int) -> bool:
        return bottom != 2

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        c_prev, gates, cont = bottoms
        if len(c_prev) != 3 or c_prev[0] != 1:
            raise self.error("the first bottom is no state of one step", expected="1 x N x H", found=c_prev)
        _, streams, hidden = c_prev
        for name, shape, expected in (
            ("gates", gates, (1, streams, 4 * hidden)),
            ("cont", cont, (1, streams)),
        ):
            if shape != expected:
                raise self.error(f"{name} does not fit the state", expected=list(expected), found=list(shape))
        self.saved = {"gates": Scratch(gates)}
        return [c_prev, c_prev]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        c_prev, gates, cont = b.bottoms
        b.saved["gates"][...] = gates
        step_forward(xp, b.saved["gates"][0], cont[0][:, None], c_prev[0], b.tops[0][0], b.tops[1][0])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        gates, (dc, dh) = b.saved["gates"][0], (grad[0] if grad is not None else 0 for grad in b.top_grads)
        dgates = b.bottom_grads[1][0] if b.bottom_grads[1] is not None else xp.empty_like(gates)
        dc_prev = step_backward(xp, gates, b.bottoms[0][0], b.tops[0][0], dc, dh, dgates)
        if b.bottom_grads[0] is not None:
            b.bottom_grads[0][0] = dc_prev


def step_forward(xp: ModuleType, gates: Array, cont: Array, c_prev: Array, c: Array, h: Array) -> None:
    """One LSTM step of N streams: writes c and h (N, H), and turns `gates` (N, 4H) from sums to activations.

    The activation of f has cont (N, 1) in it, as Caffe's.
    """
    hidden = c.shape[1]
    sigmoid(xp, gates[:, : 3 * hidden], out=gates[:, : 3 * hidden])
    i, f, o, g = _four(gates)
    xp.tanh(g, out=g)
    f *= cont
    c[...] = f * c_prev + i * g
    h[...] = o * xp.tanh(c)


def step_backward(
    xp: ModuleType, gates: Array, c_prev: Array, c: Array, dc: Array, dh: Array, dgates: Array
) -> Array:
    """The gradients of one LSTM step: writes those of the gates' sums, returns that of c_prev.

    gates: the activations that `step_forward` left. (For a cont between 0 and 1 the gradient of f is Caffe's,
    which takes cont for a part of the sigmoid.)
    """
    i, f, o, g = _four(gates)
    di, df, do, dg = _four(dgates)
    tanh_c = xp.tanh(c)
    through = dc + dh * o * (1 - tanh_c * tanh_c)
    di[...] = through * g * i * (1 - i)
    df[...] = through * c_prev * f * (1 - f)
    do[...] = dh * tanh_c * o * (1 - o)
    dg[...] = through * i * (1 - g * g)
    return through * f


def _four(gates: Array) -> tuple[Array, Array, Array, Array]:
    """Views of i, f, o and g, each (N, H), of gates (N, 4H)."""
    hidden = gates.shape[1] // 4
    return (
        gates[:, :hidden],
        gates[:, hidden : 2 * hidden],
        gates[:, 2 * hidden : 3 * hidden],
        gates[:, 3 * hidden :],
    )


def _gradient(b: Buffers, bottom: int) -> Array | None:
    """Where the gradient of a bottom goes, wanted or left over."""
    return b.bottom_grads[bottom] if b.bottom_grads[bottom] is not None else b.leftovers.get(bottom)


def _add(grad: Array | None, value: Any) -> None:
    """Adds `value()` to a parameter's gradient, where one is wanted."""
    if grad is not None:
        grad += value()
