"""The loops of max pooling, forward and backward, for numba to compile; needs numba.

Values lie as (outer, H, W, inner) and (outer, P, Q, inner): channels last, with outer = N and inner = C, or
in blocks, with outer = N times the blocks and inner = a block. A vector holds eight of a cell's channels;
where inner is no multiple of eight, the last vector overlaps the one before it. A window's place is the
number of its largest cell, NONE where none is larger than -FLT_MAX; places lie as the outputs do, a byte
each.

Forward, threads share the rows of outputs; backward they share the outer parts and the groups of vectors,
each clearing rows of cells just before the first window reaches them. Windows of 2 x 2 and 3 x 3 cells that
lie inside the image are written out: a loop over so few cells costs more than its work. Bound: memory; 4
bytes a cell and 5 an output either way.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Final

import numpy as np
from numba import carray, float32, int32, int64, njit

from netc.backends.cpu.loops.pieces import STRICT, job_signature, pointer_to, share
from netc.backends.cpu.loops.pool_job import JOB
from netc.backends.cpu.loops.vectors import (
    LANES,
    add,
    from_lane,
    load,
    load_numbers,
    spread,
    spread_number,
    store,
    store_numbers,
    where_equal,
    where_larger,
)

SIGNATURE: Final = job_signature(JOB)
NONE: Final = 255  # the place of no cell
LEAST: Final = np.float32(np.finfo(np.float32).min)

number_pointer = pointer_to(int32)


@njit(**STRICT)
def _windows(job):
    """The first and last cells of the windows: (P, 2) and (Q, 2)."""
    rows = carray(number_pointer(job.cells), (job.P, 2))
    return rows, carray(number_pointer(job.cells + 8 * job.P), (job.Q, 2))


@njit(**STRICT)
def _first_channel(vector, inner):
    """Of a vector."""
    return min(LANES * vector, inner - LANES)


@njit(**STRICT)
def _take(cell, place, best, chosen):
    """The larger of a cell and the best before it, and its place."""
    x = load(cell)
    return where_larger(x, best, x, best), where_larger(x, best, spread_number(place), chosen)


@njit(**STRICT)
def _give(cell, place, chosen, gradient):
    """Adds a gradient to a cell in the lanes that have chosen its place."""
    given = where_equal(chosen, spread_number(place), gradient, spread(float32(0)))
    store(cell, add(load(cell), given))


def _written_out(size):
    """`_take` and `_give` for all cells of a whole window of size x size."""

    @njit(**STRICT)
    def take(cell, across, down, best, chosen):
        for r in range(size):
            for s in range(size):
                best, chosen = _take(cell + r * down + s * across, size * r + s, best, chosen)
        return best, chosen

    @njit(**STRICT)
    def give(cell, across, down, chosen, gradient):
        for r in range(size):
            for s in range(size):
                _give(cell + r * down + s * across, size * r + s, chosen, gradient)

    return take, give


_take_2x2, _give_2x2 = _written_out(2)
_take_3x3, _give_3x3 = _written_out(3)


@njit(**STRICT)
def _take_part(cell, across, down, height, width, place, row_places, best, chosen):
    """`_take` for the cells of a window that lie in the image; place: the first one's."""
    for r in range(height):
        for s in range(width):
            here = place + r * row_places + s
            best, chosen = _take(cell + r * down + s * across, here, best, chosen)
    return best, chosen


@njit(**STRICT)
def _give_part(cell, across, down, height, width, place, row_places, chosen, gradient):
    """`_give` for the same."""
    for r in range(height):
        for s in range(width):
            _give(cell + r * down + s * across, place + r * row_places + s, chosen, gradient)


@njit(**STRICT)
def _size_written_out(job, height, width):
    """The size of a whole window whose loop is written out, else 0."""
    whole = height == job.R and width == job.S and height == width
    return height if whole and 2 <= height <= 3 else 0


def forward(pointer):
    job = carray(pointer, 1)[0]
    inner, W, P, Q, S, stride, pad = job.inner, job.W, job.P, job.Q, job.S, job.stride_w, job.pad_w
    across, down, vectors = 4 * inner, 4 * inner * W, (inner + LANES - 1) // LANES
    rows, columns = _windows(job)
    least, none, zero = spread(LEAST), spread_number(NONE), spread(float32(0))
    first, last = share(job.outer * P)
    for row in range(first, last):
        p = row % P
        top, height = int64(rows[p, 0]), int64(rows[p, 1] - rows[p, 0])
        image = job.bottom + down * (job.H * (row // P) + top)
        above = S * (top - (p * job.stride_h - job.pad_h))
        for q in range(Q):
            left, width = int64(columns[q, 0]), int64(columns[q, 1] - columns[q, 0])
            size = _size_written_out(job, height, width)
            for vector in range(vectors):
                channel = _first_channel(vector, inner)
                cell, output = image + across * left + 4 * channel, (row * Q + q) * inner + channel
                if size == 3:
                    best, chosen = _take_3x3(cell, across, down, least, none)
                elif size == 2:
                    best, chosen = _take_2x2(cell, across, down, least, none)
                else:
                    place = above + left - (q * stride - pad)
                    best, chosen = _take_part(cell, across, down, height, width, place, S, least, none)
                if job.cuts:
                    chosen = where_larger(best, zero, chosen, none)
                    best = where_larger(best, zero, best, zero)
                store(job.top + 4 * output, best)
                if job.keeps:
                    store_numbers(job.places + output, chosen)


@njit(**STRICT)
def _clear(first, cells, across, inner, first_vector, last_vector):
    """Zeros in these vectors of so many cells."""
    zero = spread(float32(0))
    for cell in range(cells):
        for vector in range(first_vector, last_vector):
            store(first + across * cell + 4 * _first_channel(vector, inner), zero)


def backward(pointer):
    job = carray(pointer, 1)[0]
    inner, H, W, P, Q, S = job.inner, job.H, job.W, job.P, job.Q, job.S
    across, down, vectors = 4 * inner, 4 * inner * W, (inner + LANES - 1) // LANES
    rows, columns = _windows(job)
    first, last = share(job.outer * job.groups)
    for part in range(first, last):
        group, image = part % job.groups, job.bottom_grad + down * H * (part // job.groups)
        begin, end = vectors * group // job.groups, vectors * (group + 1) // job.groups
        cleared = 0
        for p in range(P):
            top, height = int64(rows[p, 0]), int64(rows[p, 1] - rows[p, 0])
            if top + height > cleared:
                _clear(image + down * cleared, W * (top + height - cleared), across, inner, begin, end)
                cleared = top + height
            above = S * (top - (p * job.stride_h - job.pad_h))
            for q in range(Q):
                left, width = int64(columns[q, 0]), int64(columns[q, 1] - columns[q, 0])
                size = _size_written_out(job, height, width)
                for vector in range(begin, end):
                    channel = _first_channel(vector, inner)
                    cell = image + down * top + across * left + 4 * channel
                    output = ((part // job.groups * P + p) * Q + q) * inner + channel
                    chosen = load_numbers(job.places + output)
                    # What the vector before has given already is not given again.
                    gradient = from_lane(LANES * vector - channel, load(job.top_grad + 4 * output))
                    if size == 3:
                        _give_3x3(cell, across, down, chosen, gradient)
                    elif size == 2:
                        _give_2x2(cell, across, down, chosen, gradient)
                    else:
                        place = above + left - (q * job.stride_w - job.pad_w)
                        _give_part(cell, across, down, height, width, place, S, chosen, gradient)
        _clear(image + down * cleared, W * (H - cleared), across, inner, begin, end)


LOOPS: Final = {"forward": forward, "backward": backward}
OPTIONS: Final = dict.fromkeys(LOOPS, STRICT)
