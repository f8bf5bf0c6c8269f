"""One step of an LSTM or an RNN on the device: the table of kernels/recurrent.cu, and its launches.

N streams, H hidden values: states (N, H), gates (N, 4H), cont (N). What may be None stands for zeros where it
is read, and is left out where it is written.
"""

from __future__ import annotations

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.launching import Launch
from netc.backends.cuda.launching.division import divisor
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES, THREADS, blocks_for
from netc.backends.form import Run

VARIANTS = {
    name: Variant(name, "recurrent.cu", f"{name}<{THREADS}>", THREADS)
    for name in ("lstm_forward", "lstm_backward", "rnn_forward", "rnn_backward")
}


def lstm_forward(
    device: Device,
    hidden: int,
    sums: Memory,
    statics: Memory | None,
    cont: Memory,
    c_prev: Memory,
    gates: Memory,
    c: Memory,
    h: Memory,
    next_cont: Memory | None = None,
    before: Memory | None = None,
) -> Run:
    """Writes the gates' activations, c and h from the gates' sums (plus `statics`) and the state before.

    gates may be sums. before: h times the next step's cont, what that step multiplies with its weights.
    """
    memories = (sums, statics, cont, c_prev, gates, c, h, next_cont, before)
    return _prepare(device, "lstm_forward", hidden, c, *memories)


def lstm_backward(
    device: Device,
    hidden: int,
    gates: Memory,
    c_prev: Memory,
    c: Memory,
    dc: Memory | None,
    dy: Memory | None,
    product: Memory | None,
    next_cont: Memory | None,
    dgates: Memory | None,
    dc_prev: Memory | None,
) -> Run:
    """Writes the gradients of the gates' sums and of c_prev, from those of c and of h = dy + product cont."""
    memories = (gates, c_prev, c, dc, dy, product, next_cont, dgates, dc_prev)
    return _prepare(device, "lstm_backward", hidden, c, *memories)


def rnn_forward(
    device: Device,
    hidden: int,
    statics: Memory | None,
    h: Memory,
    next_cont: Memory | None,
    before: Memory | None,
) -> Run:
    """h = tanh(h + statics); before as in `lstm_forward`."""
    return _prepare(device, "rnn_forward", hidden, h, statics, h, next_cont, before)


def rnn_backward(
    device: Device, hidden: int, h: Memory, product: Memory | None, next_cont: Memory | None, dsums: Memory
) -> Run:
    """dsums = (dsums + product cont) (1 - h^2)."""
    return _prepare(device, "rnn_backward", hidden, h, h, product, next_cont, dsums)


def _prepare(device: Device, name: str, hidden: int, state: Memory, *memories: Memory | None) -> Run:
    n = state.nbytes // FLOAT_BYTES
    arguments: list[Argument] = [np.uint32(n), *divisor(hidden), *memories]
    return Launch.of(device, VARIANTS[name], (blocks_for(device, n, 1),), arguments)
