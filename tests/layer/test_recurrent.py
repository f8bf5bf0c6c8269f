"""RNN, LSTM and LSTMUnit: the formulas step by step, state from one forward to the next, what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.text import parse_text
from tests.layer.one_layer import OneLayer, make_layer

RNG = np.random.default_rng(11)
FILLERS = 'weight_filler { type: "uniform" min: -1 max: 1 } bias_filler { type: "uniform" min: -1 max: 1 }'
KINDS = ("RNN", "LSTM")


def sequence_net(kind: str, steps: int, streams: int, options: str = "", **net_options: Any) -> Net:
    text = f"""
    force_backward: true
    layer {{ name: "inputs" type: "Input" top: "x" top: "cont" input_param {{
      shape {{ dim: {steps} dim: {streams} dim: 2 }} shape {{ dim: {steps} dim: {streams} }} }} }}
    layer {{ name: "l" type: "{kind}" bottom: "x" bottom: "cont" top: "y"
      recurrent_param {{ num_output: 3 {FILLERS} {options} }} }}
    """
    return Net(parse_text(text, pb.NetParameter, "net.prototxt").message, pb.TRAIN, seed=4, **net_options)


def run(net: Net, x: Any, cont: Any) -> Any:
    net.blobs["x"].data[...] = x
    net.blobs["cont"].data[...] = cont
    net.forward()
    return net.blobs["y"].data.copy()


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def lstm_by_hand(params: list[Any], x: Any, cont: Any, static: Any = None) -> Any:
    """One output after another, as the formulas read."""
    w_x, bias, w_h = params[0], params[1], params[-1]
    hidden = w_h.shape[1]
    y = np.zeros((*cont.shape, hidden))
    for n in range(cont.shape[1]):
        h, c = np.zeros(hidden), np.zeros(hidden)
        for t in range(cont.shape[0]):
            gates = w_x @ x[t, n] + bias + w_h @ (cont[t, n] * h)
            if static is not None:
                gates += params[2] @ static[n]
            i, f, o, g = np.split(gates, 4)
            c = cont[t, n] * sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            y[t, n] = h
    return y


def rnn_by_hand(params: list[Any], x: Any, cont: Any, static: Any = None) -> Any:
    w_xh, b_h, w_hh, w_ho, b_o = params if static is None else [*params[:2], *params[3:]]
    y = np.zeros((*cont.shape, len(b_o)))
    for n in range(cont.shape[1]):
        h = np.zeros(len(b_h))
        for t in range(cont.shape[0]):
            sums = w_xh @ x[t, n] + b_h + w_hh @ (cont[t, n] * h)
            h = np.tanh(sums if static is None else sums + params[2] @ static[n])
            y[t, n] = np.tanh(w_ho @ h + b_o)
    return y


@pytest.mark.parametrize("static", [None, RNG.standard_normal((3, 2))], ids=["plain", "static"])
@pytest.mark.parametrize(("kind", "by_hand"), [("LSTM", lstm_by_hand), ("RNN", rnn_by_hand)])
def test_outputs_follow_the_formulas(kind: str, by_hand: Any, static: Any) -> None:
    x = RNG.standard_normal((5, 3, 4))
    cont = np.array([[0, 0, 0], [1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1, 1]], float)
    bottoms = [x, cont] if static is None else [x, cont, static]
    options = f'type: "{kind}" recurrent_param {{ num_output: 2 }}'
    layer = make_layer(options, len(bottoms))
    layer.infer([bottom.shape for bottom in bottoms])
    params = [RNG.standard_normal(param.shape) for param in layer.params]
    (y,) = OneLayer(options, *bottoms, params=params, dtype=np.float64).forward()
    np.testing.assert_allclose(y, by_hand(params, x, cont, static), rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "bottoms", "shapes"),
    [
        ("LSTM", [(4, 2, 3), (4, 2)], [(20, 3), (20,), (20, 5)]),
        ("LSTM", [(4, 2, 3, 2), (4, 2), (2, 7, 2)], [(20, 6), (20,), (20, 14), (20, 5)]),
        ("LSTM", [(4, 2), (4, 2)], [(20, 1), (20,), (20, 5)]),
        ("RNN", [(4, 2, 3), (4, 2)], [(5, 3), (5,), (5, 5), (5, 5), (5,)]),
        ("RNN", [(4, 2, 3), (4, 2), (2, 7)], [(5, 3), (5,), (5, 7), (5, 5), (5, 5), (5,)]),
    ],
)
def test_parameters_are_caffes(kind: str, bottoms: list[Any], shapes: list[Any]) -> None:
    layer = make_layer(f'type: "{kind}" recurrent_param {{ num_output: 5 }}', len(bottoms))
    assert layer.infer(bottoms) == [(*bottoms[0][:2], 5)]
    assert [param.shape for param in layer.params] == shapes


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_in_two_passes_is_the_sequence_in_one(kind: str) -> None:
    x = RNG.standard_normal((6, 2, 2))
    cont = np.ones((6, 2))
    cont[0], cont[4, 1] = 0, 0
    whole = run(sequence_net(kind, 6, 2), x, cont)
    parts = sequence_net(kind, 3, 2)
    first, second = run(parts, x[:3], cont[:3]), run(parts, x[3:], cont[3:])
    np.testing.assert_allclose(np.concatenate([first, second]), whole, rtol=1e-5, atol=1e-7)
    assert not np.allclose(run(parts, x[:3], cont[:3] * 0 + 1), first)  # 1 in the first step: it goes on


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_one_of_the_nets_states(kind: str) -> None:
    x, cont = RNG.standard_normal((3, 2, 2)), np.ones((3, 2))
    net, resumed = sequence_net(kind, 3, 2), sequence_net(kind, 3, 2)
    run(net, x, cont)
    assert sorted(net.states) == (["l/h"] if kind == "RNN" else ["l/c", "l/h"])
    for name, state in net.states.items():
        assert state.any()
        resumed.states[name][...] = state
    np.testing.assert_array_equal(run(resumed, x, cont), run(net, x, cont))


@pytest.mark.parametrize("kind", KINDS)
def test_another_length_goes_on_and_another_batch_begins_anew(kind: str) -> None:
    x = RNG.standard_normal((5, 2, 2))
    whole = run(sequence_net(kind, 5, 2), x, np.ones((5, 2)))
    net = sequence_net(kind, 3, 2)
    run(net, x[:3], 1)
    net.blobs["x"].reshape(2, 2, 2)
    net.blobs["cont"].reshape(2, 2)
    np.testing.assert_allclose(run(net, x[3:], 1), whole[3:], rtol=1e-5, atol=1e-7)
    net.blobs["x"].reshape(2, 1, 2)
    net.blobs["cont"].reshape(2, 1)
    expected = run(sequence_net(kind, 2, 1), x[3:, :1], 1)
    np.testing.assert_allclose(run(net, x[3:, :1], 1), expected, rtol=1e-5, atol=1e-7)
    assert net.states["l/h"].shape == (1, 1, 3)
    net.blobs["x"].reshape(2, 2, 2)
    net.blobs["cont"].reshape(2, 2)
    assert not np.array_equal(run(net, x[3:], 1), whole[3:])  # the program of old, but not its old state
    np.testing.assert_array_equal(net.program.buffers[net.graph.nodes[1]].states["h"], net.states["l/h"])


def test_exposed_states_carry_a_sequence_on() -> None:
    options = 'type: "LSTM" recurrent_param { num_output: 3 expose_hidden: true }'
    x, params = RNG.standard_normal((6, 2, 4)), [RNG.standard_normal(s) for s in ((12, 4), (12,), (12, 3))]
    zeros, cont = np.zeros((1, 2, 3)), np.ones((6, 2))

    def tops(names: str, *bottoms: Any) -> list[Any]:
        return OneLayer(options + names, *bottoms, params=params, dtype=np.float64).forward()

    names = ' top: "y" top: "h" top: "c"'
    whole, last_h, last_c = tops(names, x, cont, zeros, zeros)
    _, h, c = tops(names, x[:4], cont[:4], zeros, zeros)
    y, again_h, again_c = tops(names, x[4:], cont[4:], h, c)
    np.testing.assert_allclose(y, whole[4:], rtol=1e-12)
    np.testing.assert_array_equal(last_h[0], whole[-1])
    np.testing.assert_allclose([again_h, again_c], [last_h, last_c], rtol=1e-12)


def test_gradients_never_leave_through_the_states() -> None:
    options = 'type: "LSTM" top: "y" top: "h" top: "c" recurrent_param { num_output: 3 expose_hidden: true }'
    bottoms = [RNG.standard_normal(shape) for shape in ((4, 2, 5), (4, 2), (1, 2, 3), (1, 2, 3))]
    layer = OneLayer(options, *bottoms, params=[np.ones((12, 5)), np.ones(12), np.ones((12, 3))])
    layer.forward()
    ones = np.ones((1, 2, 3))
    dx, _, dh, dc = layer.backward(np.zeros((4, 2, 3)), ones, ones)
    assert not any(grad.any() for grad in (dx, dh, dc))
    dx, _, dh, dc = layer.backward(np.ones((4, 2, 3)), None, None)
    assert dx.any()
    assert not any(grad.any() for grad in (dh, dc))


@pytest.mark.parametrize("kind", KINDS)
def test_what_runs_in_place_behind_it_does_not_reach_its_backward(kind: str) -> None:
    def gradient(behind: str) -> Any:
        text = f"""
        layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 3 dim: 2 dim: 2 }} }} }}
        layer {{ name: "cont" type: "Input" top: "cont" input_param {{ shape {{ dim: 3 dim: 2 }} }} }}
        layer {{ name: "l" type: "{kind}" bottom: "x" bottom: "cont" top: "y"
          recurrent_param {{ num_output: 3 {FILLERS} }} }}
        layer {{ name: "dropout" type: "Dropout" bottom: "y" top: "{behind}" }}
        layer {{ name: "loss" type: "Reduction" bottom: "{behind}" top: "loss" loss_weight: 1 }}
        """
        net = Net(parse_text(text, pb.NetParameter, "net.prototxt").message, pb.TRAIN, seed=4)
        net.blobs["x"].data[...] = np.arange(12).reshape(3, 2, 2) / 7
        net.blobs["cont"].data[...] = 1
        net.forward()
        net.backward()
        return net.parameters.grad.copy()

    np.testing.assert_array_equal(gradient("y"), gradient("other"))


def test_an_lstm_of_one_step_is_its_unit() -> None:
    c, gates = RNG.standard_normal((1, 3, 2)), RNG.standard_normal((1, 3, 8))
    new_c, h = OneLayer('type: "LSTMUnit"', c, gates, [[1, 0, 1]], dtype=np.float64).forward()
    i, f, o, g = np.split(gates, 4, axis=2)
    cont = np.array([1, 0, 1])[None, :, None]
    np.testing.assert_allclose(new_c, cont * sigmoid(f) * c + sigmoid(i) * np.tanh(g), rtol=1e-12)
    np.testing.assert_allclose(h, sigmoid(o) * np.tanh(new_c), rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "bottoms", "message"),
    [
        ("recurrent_param { num_output: 0 }", [(4, 2, 3), (4, 2)], "num_output must be at least 1"),
        ("recurrent_param { num_output: 2 }", [(4,), (4, 2)], "a time axis and a stream axis"),
        ("recurrent_param { num_output: 2 }", [(4, 2, 3), (4, 3)], "cont does not fit"),
        ("recurrent_param { num_output: 2 }", [(4, 2, 3), (4, 2, 1)], "cont does not fit"),
        ("recurrent_param { num_output: 2 }", [(4, 2, 3), (4, 2), (3, 5)], "one row for each stream"),
        ("recurrent_param { num_output: 2 }", [(4, 2, 3), (4, 2), (2, 5), (1, 2, 2)], "number of bottoms"),
        ("recurrent_param { num_output: 2 expose_hidden: true }", [(4, 2, 3), (4, 2)], "number of bottoms"),
        ("top: 'y' top: 'h' recurrent_param { num_output: 2 }", [(4, 2, 3), (4, 2)], "number of tops"),
        (
            "top: 'y' top: 'h' recurrent_param { num_output: 2 expose_hidden: true }",
            [(4, 2, 3), (4, 2), (1, 2, 3)],
            "the first state h has the wrong shape",
        ),
    ],
)
def test_what_does_not_fit_is_refused(text: str, bottoms: list[Any], message: str) -> None:
    with pytest.raises(NetcError, match=message):
        make_layer(f'type: "RNN" {text}', len(bottoms)).infer(bottoms)


@pytest.mark.parametrize(
    ("bottoms", "message"),
    [
        ([(2, 3, 4), (1, 3, 16), (1, 3)], "no state of one step"),
        ([(1, 3, 4), (1, 3, 12), (1, 3)], "gates does not fit"),
        ([(1, 3, 4), (1, 3, 16), (3,)], "cont does not fit"),
    ],
)
def test_a_unit_refuses_what_does_not_fit(bottoms: list[Any], message: str) -> None:
    with pytest.raises(NetcError, match=message):
        make_layer('type: "LSTMUnit"', 3).infer(bottoms)
