"""The loops of batch normalisation, channels last, for numba to compile; needs numba.

A row is one cell's channels, a multiple of eight. y = relu((x - mean) factor + shift + residual), each part
where there is one; factor = scale / sqrt(variance + eps).

Threads share the rows, and go through them one by one: several at a time would save loads of what is the
channels', but memory is twice as fast where it is read in order. Sums over rows are taken in float32 over
ROWS_OF_SUM of them, in lines of scratch memory that stay in the first cache, and from there in doubles, of
which every thread has its own, zeros at first. Those of the statistics are of x less a first guess of the
mean, so that nothing cancels: (x - guess) and its square. `finish` and `finish_gradients` are run by one
thread, between the loops over rows. Where the ReLU cut is worked out again from x, or seen in y where a
residual was added. Bound: memory; 12 bytes an element forward, 20 backward, and 4 more for a residual, or its
gradient.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from math import sqrt
from typing import Final

from numba import carray, float32, float64, int64, njit

from netc.backends.cpu.loops.bn_job import JOB, LINES, SUMS
from netc.backends.cpu.loops.pieces import (
    CONTRACTED,
    double_pointer,
    float_pointer,
    job_signature,
    share,
    team_thread,
)
from netc.backends.cpu.loops.vectors import (
    LANES,
    add,
    load,
    multiply,
    multiply_add,
    spread,
    store,
    subtract,
    where_larger,
)

SIGNATURE: Final = job_signature(JOB)
ROWS_OF_SUM: Final = 64
FLOAT: Final = 4  # bytes
DOUBLE: Final = 8
VECTOR: Final = FLOAT * LANES


@njit(**CONTRACTED)
def _floats(address, count):
    return carray(float_pointer(address), count)


@njit(**CONTRACTED)
def _sums(job, thread):
    """Those of a thread: two rows."""
    place = job.sums + DOUBLE * SUMS * job.channels * thread
    return carray(double_pointer(place), (SUMS, job.channels))


@njit(**CONTRACTED)
def _line(job, thread):
    """The address of a thread's first line."""
    return job.lines + FLOAT * LINES * job.channels * thread


@njit(**CONTRACTED)
def _clear(line, count):
    floats = _floats(line, count)
    for i in range(count):
        floats[i] = 0


@njit(**CONTRACTED)
def _take_up(line, sums, channels):
    """Adds two lines to two rows of doubles."""
    for i in range(SUMS):
        floats, doubles = _floats(line + FLOAT * channels * i, channels), sums[i]
        for c in range(channels):
            doubles[c] += floats[c]


@njit(**CONTRACTED)
def _guess_mean(job, line):
    """The mean of the first rows of all, the same for every thread."""
    channels, rows = job.channels, min(ROWS_OF_SUM, job.rows)
    _clear(line, channels)
    for row in range(rows):
        here = job.bottom + FLOAT * channels * row
        for c in range(0, FLOAT * channels, VECTOR):
            store(line + c, add(load(line + c), load(here + c)))
    guess, part = _floats(line, channels), float32(1 / rows)
    for c in range(channels):
        guess[c] *= part


@njit(**CONTRACTED)
def _sum_moments(bottom, step, line):
    """Adds a row's (x - guess) and its square to two lines, which follow that of the guess."""
    for c in range(0, step, VECTOR):
        x = subtract(load(bottom + c), load(line + c))
        first, second = line + step + c, line + 2 * step + c
        store(first, add(load(first), x))
        store(second, multiply_add(x, x, load(second)))


def moments(pointer):
    """The sums of every thread's share of the rows."""
    job = carray(pointer, 1)[0]
    thread, step, bottom = int64(team_thread()), FLOAT * job.channels, job.bottom
    line, sums = _line(job, thread), _sums(job, thread)
    _guess_mean(job, line)
    begin, end = share(job.rows)
    for first in range(begin, end, ROWS_OF_SUM):
        _clear(line + step, SUMS * job.channels)
        for row in range(first, min(first + ROWS_OF_SUM, end)):
            _sum_moments(bottom + row * step, step, line)
        _take_up(line + step, sums, job.channels)


@njit(**CONTRACTED)
def _total(job):
    """The sums of all threads, which become those of the first."""
    total = _sums(job, 0)
    for thread in range(1, job.threads):
        total += _sums(job, thread)
    return total


def finish(pointer):
    """Mean and variance where they are the batch's, and the factors."""
    job = carray(pointer, 1)[0]
    channels, part = job.channels, 1 / job.rows
    mean, variance = _floats(job.mean, channels), _floats(job.variance, channels)
    if job.from_batch:
        guess, total = _floats(_line(job, 0), channels), _total(job)
        for c in range(channels):
            off = total[0, c] * part
            mean[c] = guess[c] + off
            variance[c] = max(0.0, total[1, c] * part - off * off)
    factor = _floats(job.factor, channels)
    for c in range(channels):
        factor[c] = 1 / sqrt(float64(variance[c]) + job.eps)
    if job.scale:
        scale = _floats(job.scale, channels)
        for c in range(channels):
            factor[c] *= scale[c]


@njit(**CONTRACTED)
def _normalise(bottom, top, residual, kept, step, means, factors, shifts, relu):
    """One row; residual, kept: addresses, or 0."""
    zero = spread(float32(0))
    for c in range(0, step, VECTOR):
        x, shift = load(bottom + c), load(shifts + c) if shifts else zero
        y = multiply_add(subtract(x, load(means + c)), load(factors + c), shift)
        if residual:
            y = add(y, load(residual + c))
        if relu:
            y = where_larger(zero, y, zero, y)  # NaNs stay
        if kept:
            store(kept + c, x)
        store(top + c, y)


@njit(**CONTRACTED)
def _at(address, offset):
    """What lies there, where there is anything."""
    return address + offset if address else 0


def normalise(pointer):
    """The top, and a copy of the bottom where it is kept."""
    job = carray(pointer, 1)[0]
    bottom, top, residual, kept, step = job.bottom, job.top, job.residual, job.kept, FLOAT * job.channels
    means, factors, shifts, relu = job.mean, job.factor, job.shift, job.relu
    for row in range(*share(job.rows)):
        here = row * step
        images = bottom + here, top + here, _at(residual, here), _at(kept, here)
        _normalise(*images, step, means, factors, shifts, relu)


@njit(**CONTRACTED)
def _passed(gradient, top, x, factor, shift, relu, zero):
    """A gradient where the ReLU passes it. top: the address of y, or 0; x: less mean."""
    if relu:
        y = load(top) if top else multiply_add(x, factor, shift)
        gradient = where_larger(y, zero, gradient, zero)
    return gradient


@njit(**CONTRACTED)
def _sum_gradients(bottom, top, top_grad, cut_grad, step, means, factors, shifts, relu, line):
    """Adds a row of the top's gradient, and that times x - mean, to two lines."""
    zero = spread(float32(0))
    for c in range(0, step, VECTOR):
        x, shift = subtract(load(bottom + c), load(means + c)), load(shifts + c) if shifts else zero
        gradient = _passed(load(top_grad + c), _at(top, c), x, load(factors + c), shift, relu, zero)
        if cut_grad:
            store(cut_grad + c, gradient)
        store(line + c, add(load(line + c), gradient))
        store(line + step + c, multiply_add(gradient, x, load(line + step + c)))


def gradients(pointer):
    """The sums of every thread's share of the rows, and the residual's gradient."""
    job = carray(pointer, 1)[0]
    thread, step = int64(team_thread()), FLOAT * job.channels
    line, sums = _line(job, thread), _sums(job, thread)
    bottom, top, top_grad, cut_grad = job.bottom, job.top, job.top_grad, job.cut_grad
    means, factors, shifts, relu = job.mean, job.factor, job.shift, job.relu
    begin, end = share(job.rows)
    for first in range(begin, end, ROWS_OF_SUM):
        _clear(line, SUMS * job.channels)
        for row in range(first, min(first + ROWS_OF_SUM, end)):
            here = row * step
            images = bottom + here, _at(top, here), top_grad + here, _at(cut_grad, here)
            _sum_gradients(*images, step, means, factors, shifts, relu, line)
        _take_up(line, sums, job.channels)


def finish_gradients(pointer):
    """The gradients of scale and shift, and how the bottom's gradient moves with the sums."""
    job = carray(pointer, 1)[0]
    channels, part, total = job.channels, 1 / job.rows, _total(job)
    variance = _floats(job.variance, channels)
    if job.scale_grad:
        scale_grad, adds = _floats(job.scale_grad, channels), job.adds_scale != 0
        for c in range(channels):
            found = total[1, c] / sqrt(variance[c] + job.eps)
            scale_grad[c] = found + (scale_grad[c] if adds else 0)
    if job.shift_grad:
        shift_grad, adds = _floats(job.shift_grad, channels), job.adds_shift != 0
        for c in range(channels):
            shift_grad[c] = total[0, c] + (shift_grad[c] if adds else 0)
    constant, along = _floats(job.moves, channels), _floats(job.moves + FLOAT * channels, channels)
    if not job.from_batch:  # given statistics do not move with x
        part = 0.0
    for c in range(channels):
        constant[c] = -part * total[0, c]
        along[c] = -part * total[1, c] / (variance[c] + job.eps)


@njit(**CONTRACTED)
def _move(bottom, top, top_grad, bottom_grad, step, means, factors, shifts, moves, relu):
    """One row of factor (dy + constant + along (x - mean))."""
    zero = spread(float32(0))
    for c in range(0, step, VECTOR):
        x, shift = subtract(load(bottom + c), load(means + c)), load(shifts + c) if shifts else zero
        factor, constant, along = load(factors + c), load(moves + c), load(moves + step + c)
        gradient = _passed(load(top_grad + c), _at(top, c), x, factor, shift, relu, zero)
        store(bottom_grad + c, multiply(factor, multiply_add(x, along, add(gradient, constant))))


def bottom_gradient(pointer):
    """From the top's gradient, or from what the ReLU passed of it."""
    job = carray(pointer, 1)[0]
    bottom, bottom_grad, step = job.bottom, job.bottom_grad, FLOAT * job.channels
    means, factors, shifts, moves = job.mean, job.factor, job.shift, job.moves
    is_cut = job.cut_grad != 0
    top, top_grad = 0 if is_cut else job.top, job.cut_grad if is_cut else job.top_grad
    relu = 0 if is_cut else job.relu
    for row in range(*share(job.rows)):
        here = row * step
        images = bottom + here, _at(top, here), top_grad + here, bottom_grad + here
        _move(*images, step, means, factors, shifts, moves, relu)


LOOPS: Final = {
    function.__name__: function
    for function in (moments, finish, normalise, gradients, finish_gradients, bottom_gradient)
}
OPTIONS: Final = dict.fromkeys(LOOPS, CONTRACTED)
