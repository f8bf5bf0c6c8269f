"""The loops of an inner product's backward pass over a batch of few rows, for numba to compile; needs numba.

M rows of a batch, D numbers each, K outputs; weights W (K, D). `bottom`: dx = dy W. `weights`: dW = dy
transposed x, or that is added to dW, for all of W's rows or some; `pack` has run before. Both take panels of
columns, which threads share, and in them tiles of up to 6 rows by 16 columns whose sums stay in registers;
what the tiles read again and again (dx or x, some of dy) lies in scratch memory in the order it is read in.
Rows of W are a power of two apart in many nets, and then compete for the same few places in the caches: so
few are read at a time. Bound: multiplications; below some eight rows memory, 4 bytes a weight.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import carray, float32, int64, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from netc.backends.cpu.loops.dense_job import JOB
from netc.backends.cpu.loops.pieces import CONTRACTED, float_pointer, job_signature, share, team_thread

SIGNATURE: Final = job_signature(JOB)
BYTES: Final = 4  # of a float
LANES: Final = 8
VECTORS: Final = 2  # of a tile's row
TILE: Final = LANES * VECTORS  # columns
DEPTH: Final = 8  # rows of W read at a time
MOST_ROWS: Final = 6  # of a tile
FUSED: Final = ("contract",)  # a product and a sum as one instruction


@intrinsic(prefer_literal=True)
def _tile(typing_context, rows, adds, target, target_step, left, left_step, right, right_step, count):
    """target[r] = the sum of left[i][r] right[i] over so many i, for the rows of a tile; target[r] is added
    where `adds` is not 0.

    rows, adds: constants. The others: addresses, the bytes from row to row and from i to i.
    """
    size, floats = rows.literal_value, ir.VectorType(ir.FloatType(), LANES)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, _, target, target_step, left, left_step, right, right_step, count = args

        def at(base: Any, offset: int, kind: Any) -> Any:
            return builder.inttoptr(builder.add(base, ir.IntType(64)(offset)), kind.as_pointer())

        def spread(number: Any) -> Any:
            single = builder.insert_element(ir.Constant(floats, ir.Undefined), number, ir.IntType(32)(0))
            return builder.shuffle_vector(single, single, ir.VectorType(ir.IntType(32), LANES)([0] * LANES))

        starts = [builder.add(target, builder.mul(target_step, ir.IntType(64)(r))) for r in range(size)]
        places = [[at(start, BYTES * LANES * v, floats) for v in range(VECTORS)] for start in starts]
        sums = [[cgutils.alloca_once(builder, floats) for _ in range(VECTORS)] for _ in range(size)]
        pairs = [pair for line in zip(places, sums, strict=True) for pair in zip(*line, strict=True)]
        for place, total in pairs:
            start = builder.load(place, align=BYTES) if adds.literal_value else floats([0.0] * LANES)
            builder.store(start, total)
        numbers, vectors = (cgutils.alloca_once_value(builder, base) for base in (left, right))
        with cgutils.for_range(builder, count):
            number, vector = builder.load(numbers), builder.load(vectors)
            parts = [builder.load(at(vector, BYTES * LANES * v, floats), align=BYTES) for v in range(VECTORS)]
            for r in range(size):
                factor = spread(builder.load(at(number, BYTES * r, ir.FloatType())))
                for part, total in zip(parts, sums[r], strict=True):
                    product = builder.fmul(factor, part, flags=FUSED)
                    builder.store(builder.fadd(builder.load(total), product, flags=FUSED), total)
            builder.store(builder.add(number, left_step), numbers)
            builder.store(builder.add(vector, right_step), vectors)
        for place, total in pairs:
            builder.store(builder.load(total), place, align=BYTES)
        return context.get_dummy_value()

    return types.void(rows, adds, *[types.int64] * 7), generate


@njit(**CONTRACTED)
def _add_rows(rows, target, step, left, left_step, right, right_step, count):
    """`_tile` for any number of rows, added."""
    while rows >= MOST_ROWS:
        _tile(6, 1, target, step, left, left_step, right, right_step, count)
        rows, target, left = rows - 6, target + 6 * step, left + 6 * BYTES
    if rows >= 4:
        _tile(4, 1, target, step, left, left_step, right, right_step, count)
        rows, target, left = rows - 4, target + 4 * step, left + 4 * BYTES
    if rows >= 2:
        _tile(2, 1, target, step, left, left_step, right, right_step, count)
        rows, target, left = rows - 2, target + 2 * step, left + 2 * BYTES
    if rows:
        _tile(1, 1, target, step, left, left_step, right, right_step, count)


@njit(**CONTRACTED)
def _panels(job):
    """The first of this thread's panels, and the one after its last."""
    return share((job.D + job.panel - 1) // job.panel)


@njit(**CONTRACTED)
def _scratch(job, floats):
    """This thread's part of the scratch memory."""
    return job.scratch + BYTES * floats * int64(team_thread())


@njit(**CONTRACTED)
def _matrix(address, rows, columns):
    return carray(float_pointer(address), (rows, columns))


def bottom(pointer):
    job = carray(pointer, 1)[0]
    M, D, K = job.M, job.D, job.K
    dx, weight, turned = (
        _matrix(job.bottom_grad, M, D),
        _matrix(job.weight, K, D),
        _matrix(job.turned, K, M),
    )
    sums = _scratch(job, job.panel * M)
    begin, end = _panels(job)
    for panel in range(begin, end):
        first = panel * job.panel
        last = min(D, first + job.panel)
        tiles = (last - first) // TILE
        packed = carray(float_pointer(sums), (tiles, M, TILE))
        packed[:] = 0
        for k in range(0, K, DEPTH):
            rows, left = job.weight + BYTES * (k * D + first), job.turned + BYTES * k * M
            for tile in range(tiles):
                target, right = sums + BYTES * TILE * M * tile, rows + BYTES * TILE * tile
                count = min(DEPTH, K - k)
                _add_rows(M, target, BYTES * TILE, left, BYTES * M, right, BYTES * D, count)
        for tile in range(tiles):
            for m in range(M):
                for c in range(TILE):
                    dx[m, first + TILE * tile + c] = packed[tile, m, c]
        for d in range(first + TILE * tiles, last):
            for m in range(M):
                total = float32(0)
                for k in range(K):
                    total += turned[k, m] * weight[k, d]
                dx[m, d] = total


def pack(pointer):
    """packed[tile, m] = the numbers of row m of x in a tile of columns."""
    job = carray(pointer, 1)[0]
    M, D = job.M, job.D
    x, packed = _matrix(job.bottom, M, D), carray(float_pointer(job.packed), (D // TILE, M, TILE))
    begin, end = _panels(job)
    for tile in range(begin * (job.panel // TILE), min(D, end * job.panel) // TILE):
        for m in range(M):
            for c in range(TILE):
                packed[tile, m, c] = x[m, TILE * tile + c]


def weights(pointer):
    job = carray(pointer, 1)[0]
    M, D, K = job.M, job.D, job.K
    x, dw, turned = _matrix(job.bottom, M, D), _matrix(job.weight_grad, K, D), _matrix(job.turned, K, M)
    left = _scratch(job, MOST_ROWS * M)
    factors = carray(float_pointer(left), (M, MOST_ROWS))
    begin, end = _panels(job)
    for panel in range(begin, end):
        first = panel * job.panel
        last = min(D, first + job.panel)
        tiles = (last - first) // TILE
        panel_of_x = job.packed + BYTES * first * M
        for k in range(0, K, MOST_ROWS):
            rows = min(MOST_ROWS, K - k)
            for m in range(M):
                for r in range(rows):
                    factors[m, r] = turned[k + r, m]
            step, left_step, right_step = BYTES * D, BYTES * MOST_ROWS, BYTES * TILE
            for tile in range(tiles):
                target = job.weight_grad + BYTES * (k * D + first + TILE * tile)
                right = panel_of_x + BYTES * TILE * M * tile
                if rows < MOST_ROWS:
                    if job.fresh:
                        for r in range(rows):
                            dw[k + r, first + TILE * tile : first + TILE * (tile + 1)] = 0
                    _add_rows(rows, target, step, left, left_step, right, right_step, M)
                elif job.fresh:
                    _tile(6, 0, target, step, left, left_step, right, right_step, M)
                else:
                    _tile(6, 1, target, step, left, left_step, right, right_step, M)
            for r in range(rows):
                for d in range(first + TILE * tiles, last):
                    total = float32(0)
                    for m in range(M):
                        total += turned[k + r, m] * x[m, d]
                    dw[k + r, d] = total if job.fresh else dw[k + r, d] + total


LOOPS: Final = {"bottom": bottom, "pack": pack, "weights": weights}
OPTIONS: Final = dict.fromkeys(LOOPS, CONTRACTED)
