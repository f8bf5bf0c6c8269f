"""RNN, LSTM and LSTMUnit agree with their layers over several steps, with and without what is optional."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.layers import recurrent
from netc.backends.form import Mode
from tests.cuda.one_chain import OneChain, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

STATES = {"RNN": 1, "LSTM": 2}


def params_of(kind: str, inputs: int, statics: int, hidden: int) -> list[np.ndarray]:
    rows = hidden * (4 if kind == "LSTM" else 1)
    shapes: list[tuple[int, ...]] = [(rows, inputs), (rows,)]
    shapes += [(rows, statics)] if statics else []
    shapes += [(rows, hidden)]
    shapes += [(hidden, hidden), (hidden,)] if kind == "RNN" else []
    return [drawn(*shape, seed=i) / np.sqrt(np.float32(shape[-1])) for i, shape in enumerate(shapes)]


def conts(steps: int, streams: int) -> np.ndarray:
    """A new stream now and then; at the very beginning the state before still counts for some."""
    cont = np.random.default_rng(1).random((steps, streams)) > 0.3
    cont[0, 0] = True
    return cont.astype(np.float32)


def make(
    device: EmulatedDevice,
    kind: str,
    steps: int,
    streams: int,
    inputs: int,
    hidden: int,
    *,
    statics: int = 0,
    exposed: bool = False,
    **options: Any,
) -> OneChain:
    bottoms = [drawn(steps, streams, inputs, seed=7), conts(steps, streams)]
    bottoms += [drawn(streams, statics, seed=8)] if statics else []
    bottoms += [drawn(1, streams, hidden, seed=9 + i) for i in range(STATES[kind] if exposed else 0)]
    tops = " ".join(f'top: "y{i}"' for i in range(1 + STATES[kind] * exposed))
    text = f'type: "{kind}" {tops} recurrent_param {{ num_output: {hidden}'
    text += " expose_hidden: true }" if exposed else " }"
    params = params_of(kind, inputs, statics, hidden)
    return OneChain(device, recurrent.FORMS[kind,], text, *bottoms, params=params, **options)


@pytest.mark.parametrize("statics", [0, 4])
@pytest.mark.parametrize("exposed", [False, True])
@pytest.mark.parametrize("kind", STATES)
def test_sequences_in_check_mode(checked: EmulatedDevice, kind: str, exposed: bool, statics: int) -> None:
    checked.order, checked.seed = "random", 10
    form = make(checked, kind, 3, 2, 5, 3, statics=statics, exposed=exposed)
    lost = [drawn(1, 2, 3)] * (STATES[kind] * exposed)  # as in Caffe
    form.check(drawn(3, 2, 3, seed=5), *lost, atol=1e-5)


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize(
    ("steps", "streams", "inputs", "hidden"), [(1, 1, 1, 1), (4, 9, 33, 65), (7, 3, 2, 130)]
)
def test_sizes(fast: EmulatedDevice, kind: str, steps: int, streams: int, inputs: int, hidden: int) -> None:
    form = make(fast, kind, steps, streams, inputs, hidden)
    form.check(drawn(steps, streams, hidden, seed=5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", STATES)
def test_the_last_state_is_the_next_sequence_s_first(fast: EmulatedDevice, kind: str) -> None:
    make(fast, kind, 2, 3, 4, 5).check(drawn(2, 3, 5, seed=5), atol=1e-5, passes=3)


@pytest.mark.parametrize("kind", STATES)
def test_gradients_that_nobody_wants_or_gives(checked: EmulatedDevice, kind: str) -> None:
    make(checked, kind, 2, 2, 3, 2, statics=2, wanted=[False, False, False]).check(drawn(2, 2, 2), atol=1e-5)
    make(checked, kind, 2, 2, 3, 2).check(None, atol=1e-5)
    form = make(checked, kind, 2, 2, 3, 2, statics=2, wanted=[True, False, True])
    unwanted = make(checked, kind, 2, 2, 3, 2, statics=2, wanted=[False, False, False])
    unwanted.buffers.leftovers = {0: unwanted.room((2, 2, 3)), 2: unwanted.room((2, 2))}
    for one in (form, unwanted):
        one.forward()
        one.backward([drawn(2, 2, 2)])
    for bottom, left in unwanted.buffers.leftovers.items():
        np.testing.assert_array_equal(left, form.buffers.bottom_grads[bottom])


@pytest.mark.parametrize("kind", STATES)
def test_nothing_is_saved_where_no_gradient_is_wanted(fast: EmulatedDevice, kind: str) -> None:
    form = make(fast, kind, 3, 2, 4, 5, mode=Mode(backward=False))
    assert not form.form.saved
    form.check(atol=1e-5)


@pytest.mark.parametrize("wanted", [(True, True, False), (True, False, False), (False, True, False)])
@pytest.mark.parametrize("given", [(True, True), (True, False), (False, True)])
def test_lstm_unit(device: EmulatedDevice, wanted: tuple[bool, ...], given: tuple[bool, bool]) -> None:
    bottoms = [drawn(1, 3, 5), drawn(1, 3, 20, seed=1), np.array([[1, 0, 1]])]
    form = OneChain(device, recurrent.FORMS["LSTMUnit",], 'type: "LSTMUnit"', *bottoms, wanted=list(wanted))
    grads = [drawn(1, 3, 5, seed=2 + i) if give else None for i, give in enumerate(given)]
    form.check(*grads, atol=1e-5)
