"""The loop of the gradient of 3 x 3 filters that see a channel each, channels last; needs numba.

Threads share the rows of the top, and go along them: pixels are often a power of two apart, and would push
each other out of the cache if a few channels of all came first. Sums are taken in lines of scratch memory,
one for each of the nine cells of a filter, loaded and stored once for AT_ONCE outputs, and every ROWS_OF_SUM
rows go to doubles, of which every thread has its own, zeros at first. Padding is 1. Bound: loads from the
first cache, four for three multiplications.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Final

from numba import carray, int64, njit

from netc.backends.cpu.loops.depthwise_job import CELLS, JOB, SIZE
from netc.backends.cpu.loops.pieces import (
    CONTRACTED,
    double_pointer,
    float_pointer,
    job_signature,
    share,
    team_thread,
)
from netc.backends.cpu.loops.vectors import LANES, load, multiply_add, store

SIGNATURE: Final = job_signature(JOB)
ROWS_OF_SUM: Final = 8
AT_ONCE: Final = 4  # outputs
FLOAT: Final = 4  # bytes
DOUBLE: Final = 8
VECTOR: Final = FLOAT * LANES


@njit(**CONTRACTED)
def _lines(job, thread):
    count = CELLS * job.channels
    return carray(float_pointer(job.lines + FLOAT * count * thread), count)


@njit(**CONTRACTED)
def _take_up(lines, sums):
    """Moves the lines' numbers to the sums."""
    for i in range(len(lines)):
        sums[i] += lines[i]
    for i in range(len(lines)):
        lines[i] = 0


@njit(**CONTRACTED)
def _sum_at_edge(bottom, top_grad, line, step, first, last):
    """Adds the products of one output's gradient with the cells from `first` to `last`, not included, of the
    three that it sees. step: the bytes from pixel to pixel, and from line to line."""
    for s in range(first, last):
        for c in range(0, step, VECTOR):
            place = line + s * step + c
            product = multiply_add(load(top_grad + c), load(bottom + (s - 1) * step + c), load(place))
            store(place, product)


@njit(**CONTRACTED)
def _sum_inside(bottom, top_grad, line, step, across):
    """The same for AT_ONCE outputs that see three cells each. across: the bytes from one's to the next's."""
    for c in range(0, step, VECTOR):
        left, middle, right = load(line + c), load(line + step + c), load(line + 2 * step + c)
        for q in range(AT_ONCE):
            gradient, x = load(top_grad + q * step + c), bottom + q * across + c
            left = multiply_add(gradient, load(x - step), left)
            middle = multiply_add(gradient, load(x), middle)
            right = multiply_add(gradient, load(x + step), right)
        store(line + c, left)
        store(line + step + c, middle)
        store(line + 2 * step + c, right)


@njit(**CONTRACTED)
def _sum_row(bottom, top_grad, line, step, W, Q, stride):
    """Adds the products of a row of the top's gradient with one of the bottom to three lines."""
    across = stride * step
    inside = min(Q, (W - 2) // stride + 1)  # the outputs before the first that sees the padding behind
    _sum_at_edge(bottom, top_grad, line, step, 1, SIZE if inside else SIZE - 1)
    q = 1
    while q + AT_ONCE <= inside:
        _sum_inside(bottom + q * across, top_grad + q * step, line, step, across)
        q += AT_ONCE
    while q < Q:
        last = SIZE if q < inside else SIZE - 1
        _sum_at_edge(bottom + q * across, top_grad + q * step, line, step, 0, last)
        q += 1


def filters(pointer):
    """The sums of every thread's share of the rows: (cells, channels)."""
    job = carray(pointer, 1)[0]
    thread, channels, step = int64(team_thread()), job.channels, FLOAT * job.channels
    H, W, P, Q, stride = job.H, job.W, job.P, job.Q, job.stride
    lines = _lines(job, thread)
    line = job.lines + FLOAT * CELLS * channels * thread
    sums = carray(double_pointer(job.sums + DOUBLE * CELLS * channels * thread), CELLS * channels)
    lines[:] = 0
    begin, end = share(job.images * P)
    for row in range(begin, end):
        image, p = row // P, row % P
        for r in range(SIZE):
            y = p * stride + r - 1
            if 0 <= y < H:
                bottom = job.bottom + (image * H + y) * W * step
                _sum_row(bottom, job.top_grad + row * Q * step, line + SIZE * r * step, step, W, Q, stride)
        if (row - begin) % ROWS_OF_SUM == ROWS_OF_SUM - 1:
            _take_up(lines, sums)
    _take_up(lines, sums)


LOOPS: Final = {"filters": filters}
OPTIONS: Final = dict.fromkeys(LOOPS, CONTRACTED)
