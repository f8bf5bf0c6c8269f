"""The loops of the parameters' update, one for each solver type, for numba to compile; needs numba.

Each is run by every thread of an OpenMP team with the same JOB, and works on its thread's share of the rows.
It does what netc/solver/rules.py says, operation by operation in float32, so that both give the same bits.
Bound: memory; 16 bytes an element for parameter and gradient, 8 for each history array.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from math import sqrt

from numba import carray, float32, float64, from_dtype, njit

from netc.backends.cpu.loops.pieces import (
    STRICT,
    double_pointer,
    float_pointer,
    job_signature,
    pointer_to,
    share,
)
from netc.backends.cpu.loops.update_job import JOB, ROW

SIGNATURE = job_signature(JOB)

_row_pointer = pointer_to(from_dtype(ROW))


@njit(**STRICT)
def _floats(address, row):
    return carray(float_pointer(address + 4 * row.start), row.count)


@njit(**STRICT)
def _stretch(job, number):
    """Of one row: parameters, gradients, both history arrays, the rate, the decay."""
    row = carray(_row_pointer(job.rows), job.row_count)[number]
    w, g = _floats(job.data, row), _floats(job.grad, row)
    rate = float32(job.rate * row.rate * job.correction)
    return w, g, _floats(job.first, row), _floats(job.second, row), rate, row.decay


@njit(**STRICT)
def _gradient(g, w, scale, decay, l1):
    """Of one element: scaled and regularised."""
    g = g * scale
    if decay == 0:
        return g
    return g + decay * (float32(w > 0) - float32(w < 0) if l1 else w)


# A loop takes the job's numbers out before it writes: the compiler cannot know that arrays lie elsewhere.


def sgd(pointer):
    job = carray(pointer, 1)[0]
    scale, l1, momentum = job.scale, job.l1 != 0, job.momentum
    for number in range(*share(job.row_count)):
        w, g, h, _, rate, decay = _stretch(job, number)
        for i in range(len(w)):
            h[i] = momentum * h[i] + rate * _gradient(g[i], w[i], scale, decay, l1)
            g[i] = h[i]
            w[i] -= g[i]


def nesterov(pointer):
    job = carray(pointer, 1)[0]
    scale, l1, momentum, lookahead = job.scale, job.l1 != 0, job.momentum, job.lookahead
    for number in range(*share(job.row_count)):
        w, g, h, _, rate, decay = _stretch(job, number)
        for i in range(len(w)):
            old = momentum * h[i]
            h[i] = old + rate * _gradient(g[i], w[i], scale, decay, l1)
            g[i] = lookahead * h[i] - old
            w[i] -= g[i]


def adagrad(pointer):
    job = carray(pointer, 1)[0]
    scale, l1, delta = job.scale, job.l1 != 0, job.delta
    for number in range(*share(job.row_count)):
        w, g, h, _, rate, decay = _stretch(job, number)
        for i in range(len(w)):
            gradient = _gradient(g[i], w[i], scale, decay, l1)
            h[i] += gradient * gradient
            g[i] = rate * (gradient / (sqrt(h[i]) + delta))
            w[i] -= g[i]


def rmsprop(pointer):
    job = carray(pointer, 1)[0]
    scale, l1, delta, kept, new = job.scale, job.l1 != 0, job.delta, job.momentum2, job.new2
    for number in range(*share(job.row_count)):
        w, g, h, _, rate, decay = _stretch(job, number)
        for i in range(len(w)):
            gradient = _gradient(g[i], w[i], scale, decay, l1)
            h[i] = kept * h[i] + new * (gradient * gradient)
            g[i] = rate * (gradient / (sqrt(h[i]) + delta))
            w[i] -= g[i]


def adadelta(pointer):
    job = carray(pointer, 1)[0]
    scale, l1, delta, kept, new = job.scale, job.l1 != 0, job.delta, job.momentum, job.new
    for number in range(*share(job.row_count)):
        w, g, h, s, rate, decay = _stretch(job, number)
        for i in range(len(w)):
            gradient = _gradient(g[i], w[i], scale, decay, l1)
            h[i] = kept * h[i] + new * (gradient * gradient)
            change = gradient * sqrt((s[i] + delta) / (h[i] + delta))
            s[i] = kept * s[i] + new * (change * change)
            g[i] = rate * change
            w[i] -= g[i]


def adam(pointer):
    job = carray(pointer, 1)[0]
    scale, l1, delta = job.scale, job.l1 != 0, job.delta
    kept, new, kept2, new2 = job.momentum, job.new, job.momentum2, job.new2
    for number in range(*share(job.row_count)):
        w, g, m, v, rate, decay = _stretch(job, number)
        for i in range(len(w)):
            gradient = _gradient(g[i], w[i], scale, decay, l1)
            v[i] = kept2 * v[i] + new2 * (gradient * gradient)
            m[i] = kept * m[i] + new * gradient
            g[i] = rate * (m[i] / (sqrt(v[i]) + delta))
            w[i] -= g[i]


def square_sums(pointer):
    """Leaves the sum of squares of each row's gradients, in double."""
    job = carray(pointer, 1)[0]
    sums = carray(double_pointer(job.sums), job.row_count)
    for number in range(*share(job.row_count)):
        gradients = _stretch(job, number)[1]
        total = 0.0
        for i in range(len(gradients)):
            total += float64(gradients[i]) * float64(gradients[i])
        sums[number] = total


LOOPS = {
    "SGD": sgd,
    "Nesterov": nesterov,
    "AdaGrad": adagrad,
    "RMSProp": rmsprop,
    "AdaDelta": adadelta,
    "Adam": adam,
    "square_sums": square_sums,
}
# A sum in any order can use vectors.
OPTIONS = dict.fromkeys(LOOPS, STRICT) | {"square_sums": {**STRICT, "fastmath": {"reassoc", "contract"}}}
