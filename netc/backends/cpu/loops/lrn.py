"""The loops of LRN across channels, forward and backward, for numba to compile; needs numba.

Values lie channels last: a row is one pixel's channels. Each loop is run by every thread of an OpenMP team
with the same JOB, and works on its thread's share of the rows, in scratch memory of its own (3 rows, each
with `half` zeros before and behind). beta is 0.75, whose power is two square roots. Bound: memory; 8 bytes an
element forward, 12 backward.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from math import sqrt
from typing import Final

from numba import carray, float32, int64, njit

from netc.backends.cpu.loops.lrn_job import JOB, SCRATCH_ROWS
from netc.backends.cpu.loops.pieces import CONTRACTED, float_pointer, job_signature, share, team_thread

SIGNATURE: Final = job_signature(JOB)


@njit(**CONTRACTED)
def _rows(address, job):
    return carray(float_pointer(address), (job.rows, job.channels))


@njit(**CONTRACTED)
def _scratch(job):
    """This thread's scratch rows, their margins zero."""
    width = job.channels + 2 * job.half
    mine = job.scratch + 4 * SCRATCH_ROWS * width * int64(team_thread())
    rows = carray(float_pointer(mine), (SCRATCH_ROWS, width))
    rows[:] = 0
    return rows[0], rows[1], rows[2]


@njit(**CONTRACTED)
def _sum_windows(padded, total, channels, half):
    """total[c] = the sum over the window around c; padded begins with a margin."""
    for c in range(channels):
        total[c] = padded[c]
    for offset in range(1, 2 * half + 1):
        for c in range(channels):
            total[c] += padded[c + offset]


def forward(pointer):
    job = carray(pointer, 1)[0]
    channels, half, k, weight = job.channels, job.half, job.k, job.weight
    bottom, top = _rows(job.bottom, job), _rows(job.top, job)
    squares, total, _ = _scratch(job)
    for row in range(*share(job.rows)):
        x, y = bottom[row], top[row]
        for c in range(channels):
            squares[half + c] = x[c] * x[c]
        _sum_windows(squares, total, channels, half)
        for c in range(channels):
            root = sqrt(k + weight * total[c])
            y[c] = x[c] / (root * sqrt(root))


# Few arrays in each loop: the compiler has to check that they lie apart before it can use vectors.
def backward(pointer):
    """dx = dy s^-0.75 - 1.5 weight x (the sum over the window of dy x s^-1.75)."""
    job = carray(pointer, 1)[0]
    channels, half, k, weight = job.channels, job.half, job.k, job.weight
    bottom, top_grad, bottom_grad = (
        _rows(job.bottom, job),
        _rows(job.top_grad, job),
        _rows(job.bottom_grad, job),
    )
    padded, total, first = _scratch(job)
    for row in range(*share(job.rows)):
        x, dy, dx = bottom[row], top_grad[row], bottom_grad[row]
        for c in range(channels):
            padded[half + c] = x[c] * x[c]
        _sum_windows(padded, total, channels, half)
        for c in range(channels):
            total[c] = k + weight * total[c]
        for c in range(channels):
            root = sqrt(total[c])
            first[c] = dy[c] / (root * sqrt(root))
        for c in range(channels):
            padded[half + c] = first[c] * x[c] / total[c]
        _sum_windows(padded, total, channels, half)
        for c in range(channels):
            dx[c] = first[c] - float32(1.5) * weight * x[c] * total[c]


LOOPS: Final = {"forward": forward, "backward": backward}
OPTIONS: Final = dict.fromkeys(LOOPS, CONTRACTED)
