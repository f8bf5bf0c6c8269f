"""The loops of Winograd's convolution: into the points of F(m x m, r x r) and back; needs numba.

All tiles have 6 x 6 points: m + r - 1 = 6, so that tiles of 4 x 4 cells go with filters of 3 x 3, those of
2 x 2 with 5 x 5. Polynomials are taken at 0, +-5/8, +-3/2 and infinity: next to the usual 0, +-1, +-2 that
costs some multiplications more and rounds four times less. In the terms of Lavin and Gray (2015):
`interpolate` is B^T, `evaluate` the rows of G before they are divided by DIVISORS, `collect` A^T; the
gradient of the filters takes the same three the other way round.

Values lie channels last. Points are matrices: (36, rows, columns). Channels go through in pieces of LANES,
all of them in memory that stays in the first cache. Each loop is run by every thread of an OpenMP team with
the same JOB, and works on its thread's share of the tiles, or by one with a job of its own. Bound: memory.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Final

import numpy as np
from numba import carray, float32, float64, int64, njit

from netc.backends.cpu.loops.pieces import (
    CONTRACTED,
    double_pointer,
    float_pointer,
    job_signature,
    share,
    team_thread,
)
from netc.backends.cpu.loops.winograd_job import JOB, LANES, SCRATCH

ROW: Final = 4 * LANES  # bytes

P, Q = 5 / 8, 3 / 2
P1, Q1 = float32(P), float32(Q)
P2, Q2 = float32(P**2), float32(Q**2)
P3, Q3 = float32(P**3), float32(Q**3)
P4, Q4 = float32(P**4), float32(Q**4)
SUM, PRODUCT = float32(P**2 + Q**2), float32(P**2 * Q**2)
DIVISORS: Final = np.array(
    [P**2 * Q**2, *[2 * P**2 * (P**2 - Q**2)] * 2, *[2 * Q**2 * (Q**2 - P**2)] * 2, 1.0]
)

SIGNATURE: Final = job_signature(JOB)


@njit(**CONTRACTED)
def _row(address, count):
    return carray(float_pointer(address), count)


@njit(**CONTRACTED)
def _interpolate(a0, a1, a2, a3, a4, a5, target, count):
    """The six values of B^T d, for rows at these addresses."""
    x0, x1, x2 = _row(a0, count), _row(a1, count), _row(a2, count)
    x3, x4, x5 = _row(a3, count), _row(a4, count), _row(a5, count)
    out = carray(float_pointer(target), (6, 64))
    for c in range(count):
        v1, v2, v3, v4 = x1[c], x2[c], x3[c], x4[c]
        even, odd = v4 - Q2 * v2, P1 * (v3 - Q2 * v1)
        even2, odd2 = v4 - P2 * v2, Q1 * (v3 - P2 * v1)
        out[0, c] = PRODUCT * x0[c] - SUM * v2 + v4
        out[1, c] = even + odd
        out[2, c] = even - odd
        out[3, c] = even2 + odd2
        out[4, c] = even2 - odd2
        out[5, c] = PRODUCT * v1 - SUM * v3 + x5[c]


@njit(**CONTRACTED)
def _evaluate(a0, a1, a2, a3, a4, last, target, count):
    """At the six points, the polynomials with the coefficients in these rows; last: the highest, again."""
    x0, x1, x2 = _row(a0, count), _row(a1, count), _row(a2, count)
    x3, x4, x5 = _row(a3, count), _row(a4, count), _row(last, count)
    out = carray(float_pointer(target), (6, 64))
    for c in range(count):
        v0, v1, v2, v3, v4 = x0[c], x1[c], x2[c], x3[c], x4[c]
        even, even2 = v0 + P2 * v2 + P4 * v4, v0 + Q2 * v2 + Q4 * v4
        odd, odd2 = P1 * (v1 + P2 * v3), Q1 * (v1 + Q2 * v3)
        out[0, c] = v0
        out[1, c] = even + odd
        out[2, c] = even - odd
        out[3, c] = even2 + odd2
        out[4, c] = even2 - odd2
        out[5, c] = x5[c]


@njit(**CONTRACTED)
def _collect(a0, a1, a2, a3, a4, a5, wanted, target, count):
    """The first `wanted` - 1 coefficients that the values at the points add to, and the last, which gets
    infinity's too."""
    x0, x1, x2 = _row(a0, count), _row(a1, count), _row(a2, count)
    x3, x4, x5 = _row(a3, count), _row(a4, count), _row(a5, count)
    out = carray(float_pointer(target), (6, 64))
    if wanted == 2:
        for c in range(count):
            out[0, c] = x0[c] + (x1[c] + x2[c]) + (x3[c] + x4[c])
            out[1, c] = P1 * (x1[c] - x2[c]) + Q1 * (x3[c] - x4[c]) + x5[c]
        return
    for c in range(count):
        total, total2 = x1[c] + x2[c], x3[c] + x4[c]
        change, change2 = x1[c] - x2[c], x3[c] - x4[c]
        out[0, c] = x0[c] + total + total2
        out[1, c] = P1 * change + Q1 * change2
        out[2, c] = P2 * total + Q2 * total2
        out[3, c] = P3 * change + Q3 * change2
        out[4, c] = P4 * total + Q4 * total2
    last = wanted - 1
    for c in range(count):
        out[last, c] += x5[c]


@njit(**CONTRACTED)
def _scratch(job):
    """The addresses of this thread's two tiles, and of its zeros."""
    mine = job.scratch + 4 * SCRATCH * int64(team_thread())
    zeros = mine + 72 * ROW
    _row(zeros, LANES)[:] = 0
    return mine, mine + 36 * ROW, zeros


@njit(**CONTRACTED)
def _mine(job):
    """This thread's share of what there is to do."""
    return (int64(0), job.count) if job.alone else share(job.count)


@njit(**CONTRACTED)
def _place(job, number):
    """Of a tile: its image, and where its first cell lies."""
    tile = job.first + number
    image, rest = tile // (job.down * job.across), tile % (job.down * job.across)
    return image, rest // job.across * job.size - job.top, rest % job.across * job.size - job.left


@njit(**CONTRACTED)
def _cell(job, image, y, x, channel, zeros):
    """The address of a cell's channels from `channel` on; zeros outside the image."""
    if y < 0 or y >= job.height or x < 0 or x >= job.width:
        return zeros
    return job.values + 4 * (((image * job.height + y) * job.width + x) * job.pixel + channel)


@njit(**CONTRACTED)
def _columns(first):
    """Six rows of scratch, each a row of points below the one before."""
    step = 6 * ROW
    return first, first + step, first + 2 * step, first + 3 * step, first + 4 * step, first + 5 * step


@njit(**CONTRACTED)
def _store(job, source, number, j, channel, count):
    """A column of points from scratch, into the matrices."""
    for i in range(6):
        target = job.points + 4 * ((6 * i + j) * job.plane + number * job.row + channel)
        here, there = _row(source + i * ROW, count), _row(target, count)
        for c in range(count):
            there[c] = here[c]


def image_tiles(pointer):
    """Points of the image's tiles, which overlap."""
    job = carray(pointer, 1)[0]
    tile, column, zeros = _scratch(job)
    for number in range(*_mine(job)):
        image, y, x = _place(job, number)
        for channel in range(0, job.channels, LANES):
            count = min(LANES, job.channels - channel)
            for i in range(6):
                _interpolate(
                    _cell(job, image, y + i, x, channel, zeros),
                    _cell(job, image, y + i, x + 1, channel, zeros),
                    _cell(job, image, y + i, x + 2, channel, zeros),
                    _cell(job, image, y + i, x + 3, channel, zeros),
                    _cell(job, image, y + i, x + 4, channel, zeros),
                    _cell(job, image, y + i, x + 5, channel, zeros),
                    tile + 6 * i * ROW,
                    count,
                )
            for j in range(6):
                a0, a1, a2, a3, a4, a5 = _columns(tile + j * ROW)
                _interpolate(a0, a1, a2, a3, a4, a5, column, count)
                _store(job, column, number, j, channel, count)


@njit(**CONTRACTED)
def _collected(job, number, channel, count, wanted, tile, column):
    """The wanted x wanted values of a tile of points; column holds them, rows of six."""
    first, plane = job.points + 4 * (number * job.row + channel), 4 * job.plane
    for i in range(6):
        a = first + 6 * i * plane
        target = tile + 6 * i * ROW
        _collect(
            a, a + plane, a + 2 * plane, a + 3 * plane, a + 4 * plane, a + 5 * plane, wanted, target, count
        )
    for j in range(wanted):
        a0, a1, a2, a3, a4, a5 = _columns(tile + j * ROW)
        _collect(a0, a1, a2, a3, a4, a5, wanted, column + 6 * j * ROW, count)


@njit(**CONTRACTED)
def _rectified(value, slope):
    below = slope * value if slope != 0 else float32(0)  # of minus infinity too
    return below if value < 0 else value


@njit(**CONTRACTED)
def _write(cell, factor, shift, slope, out, count):
    for c in range(count):
        out[c] = _rectified(factor[c] * cell[c] + shift[c], slope)


@njit(**CONTRACTED)
def _write_sum(cell, factor, shift, residual, slope, out, count):
    """Spoils the cell. Few arrays in each loop: the compiler has to check that they lie apart."""
    for c in range(count):
        cell[c] = factor[c] * cell[c] + shift[c] + residual[c]
    for c in range(count):
        out[c] = _rectified(cell[c], slope)


def tiles_to_image(pointer):
    """y = relu(factor * cell + shift + residual) of the cells that lie in the image."""
    job = carray(pointer, 1)[0]
    tile, column, _ = _scratch(job)
    slope, size, adds, residual = job.slope, job.size, job.residual != 0, job.residual - job.values
    for number in range(*_mine(job)):
        image, y, x = _place(job, number)
        for channel in range(0, job.channels, LANES):
            count = min(LANES, job.channels - channel)
            factor, shift = _row(job.factor + 4 * channel, count), _row(job.shift + 4 * channel, count)
            _collected(job, number, channel, count, size, tile, column)
            for i in range(min(size, job.height - y)):
                for j in range(min(size, job.width - x)):
                    cell = _row(column + (6 * j + i) * ROW, count)
                    place = _cell(job, image, y + i, x + j, channel, 0)
                    out = _row(place, count)
                    if adds:
                        _write_sum(cell, factor, shift, _row(place + residual, count), slope, out, count)
                    else:
                        _write(cell, factor, shift, slope, out, count)


@njit(**CONTRACTED)
def _add_cells(job, image, y, x, channel, count):
    """Adds a tile's cells to the sums of their channels."""
    place = job.sums + 8 * (int64(team_thread()) * job.channels + channel)
    sums = carray(double_pointer(place), count)
    for i in range(min(job.size, job.height - y)):
        for j in range(min(job.size, job.width - x)):
            cell = _row(_cell(job, image, y + i, x + j, channel, 0), count)
            for c in range(count):
                sums[c] += cell[c]


def gradient_tiles(pointer):
    """Points of the top's gradient, in tiles that do not overlap."""
    job = carray(pointer, 1)[0]
    tile, column, zeros = _scratch(job)
    wide = job.size == 4
    for number in range(*_mine(job)):
        image, y, x = _place(job, number)
        for channel in range(0, job.channels, LANES):
            count = min(LANES, job.channels - channel)
            for i in range(job.size):
                a0 = _cell(job, image, y + i, x, channel, zeros)
                a1 = _cell(job, image, y + i, x + 1, channel, zeros)
                a2 = _cell(job, image, y + i, x + 2, channel, zeros) if wide else zeros
                a3 = _cell(job, image, y + i, x + 3, channel, zeros) if wide else zeros
                _evaluate(a0, a1, a2, a3, zeros, a3 if wide else a1, tile + 6 * i * ROW, count)
            for j in range(6):
                a0, a1, a2, a3, _, _ = _columns(tile + j * ROW)
                if not wide:
                    a2 = a3 = zeros
                _evaluate(a0, a1, a2, a3, zeros, a3 if wide else a1, column, count)
                _store(job, column, number, j, channel, count)
            if job.sums:
                _add_cells(job, image, y, x, channel, count)


@njit(**CONTRACTED)
def _filter_taps(job, first, count, channel, tile):
    """A cell of each of `count` filters side by side: rows (6 a + b) of scratch."""
    start, size = job.filters + 4 * (first * job.filter_step + channel * job.input_step), job.size
    for a in range(size):
        for b in range(size):
            taps = _row(start + 4 * (size * a + b) * job.cell_step, max(1, (count - 1) * job.filter_step + 1))
            out = _row(tile + (6 * a + b) * ROW, count)
            for c in range(count):
                out[c] = taps[c * job.filter_step]


@njit(**CONTRACTED)
def _evaluate_filter(job, a0, a1, a2, a3, a4, zeros, target, count):
    """Of 3 or of 5 rows."""
    if job.size == 3:
        _evaluate(a0, a1, a2, zeros, zeros, a2, target, count)
    else:
        _evaluate(a0, a1, a2, a3, a4, a4, target, count)


def filter_points(pointer):
    """Points of the filters, in blocks of `lanes`: (36, blocks, inputs, lanes), divided as G says."""
    job = carray(pointer, 1)[0]
    tile, column, zeros = _scratch(job)
    lanes, inputs = job.lanes, job.inputs
    for task in range(*share(job.count)):  # a block with one of its channels
        block, channel = task // inputs, task % inputs
        count = min(lanes, job.channels - block * lanes)
        _filter_taps(job, block * lanes, count, channel, tile)
        for a in range(job.size):
            row, target = tile + 6 * a * ROW, column + 6 * a * ROW
            _evaluate_filter(
                job, row, row + ROW, row + 2 * ROW, row + 3 * ROW, row + 4 * ROW, zeros, target, count
            )
        for j in range(6):
            a0, a1, a2, a3, a4, _ = _columns(column + j * ROW)
            _evaluate_filter(job, a0, a1, a2, a3, a4, zeros, tile, count)
            for i in range(6):
                place = job.points + 4 * ((6 * i + j) * job.plane + (block * inputs + channel) * lanes)
                here, there = _row(tile + i * ROW, lanes), _row(place, lanes)
                scale = _SCALES[6 * i + j]
                for c in range(count):
                    there[c] = scale * here[c]
                for c in range(count, lanes):
                    there[c] = 0


_SCALES = np.outer(1 / DIVISORS, 1 / DIVISORS).astype(np.float32).reshape(-1)


def points_to_filters(pointer):
    """The filters' gradient of their points (36, filters, channels), which it spoils; the sum over copies."""
    job = carray(pointer, 1)[0]
    tile, column, _ = _scratch(job)
    adds, size = job.adds != 0, job.size
    for number in range(*share(job.count)):
        for channel in range(0, job.channels, LANES):
            count = min(LANES, job.channels - channel)
            for point in range(36):
                place = job.points + 4 * (point * job.plane + number * job.row + channel)
                row, scale = _row(place, count), _SCALES[point]
                for copy in range(1, job.copies):
                    other = _row(place + 4 * copy * job.copy_step, count)
                    for c in range(count):
                        row[c] += other[c]
                for c in range(count):
                    row[c] *= scale
            _collected(job, number, channel, count, size, tile, column)
            start = job.filters + 4 * (number * job.filter_step + channel * job.input_step)
            for a in range(size):
                for b in range(size):
                    cell = _row(column + (6 * b + a) * ROW, count)
                    out = _row(start + 4 * (size * a + b), (count - 1) * job.input_step + 1)
                    if adds:
                        for c in range(count):
                            out[c * job.input_step] += cell[c]
                    else:
                        for c in range(count):
                            out[c * job.input_step] = cell[c]


@njit(**CONTRACTED)
def _sums(job):
    return carray(double_pointer(job.sums), (job.count, job.channels))


def clear_sums(pointer):
    """Zeros for the sums of `gradient_tiles`, in `count` rows."""
    _sums(carray(pointer, 1)[0])[:] = 0


def bias_gradient(pointer):
    """The gradient of the bias, which stands for `filters`: the sum of `count` rows of sums."""
    job = carray(pointer, 1)[0]
    sums, out, adds = _sums(job), _row(job.filters, job.channels), job.adds != 0
    for c in range(job.channels):
        total = float64(0)
        for row in range(job.count):
            total += sums[row, c]
        out[c] = float32(total + out[c]) if adds else float32(total)


LOOPS: Final = {
    function.__name__: function
    for function in (
        image_tiles,
        tiles_to_image,
        gradient_tiles,
        filter_points,
        points_to_filters,
        clear_sums,
        bias_gradient,
    )
}
OPTIONS: Final = dict.fromkeys(LOOPS, CONTRACTED)
