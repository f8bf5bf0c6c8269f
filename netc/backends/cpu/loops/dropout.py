"""The loops of Dropout, for numba to compile; needs numba.

Eight elements are one block of Philox4x64-10, four words whose halves are a number each, the lower first. As
layer/random.py draws them through NumPy, block i of draw d has the counter (i + 1, d, 0, 0), and the upper 24
bits of a half make its number. Bit j of byte i of the mask stands for element 8 i + j. (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", 2011)

Values lie as they are numbered. Bound: the draw's 20 products of 64 bits for 8 elements; backward memory, 8
bytes an element.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Final

from numba import carray, int64, njit, types, uint64

from netc.backends.cpu.loops.dropout_job import JOB
from netc.backends.cpu.loops.pieces import (
    STRICT,
    byte_pointer,
    float_pointer,
    job_signature,
    pointer_to,
    share,
)
from netc.backends.cpu.loops.vectors import LANES, high_product, load, multiply, spread, store, where_bits

SIGNATURE: Final = job_signature(JOB)

MULTIPLIERS: Final = uint64(0xD2E7470EE14C6C93), uint64(0xCA5A826395121157)
WEYL: Final = uint64(0x9E3779B97F4A7C15), uint64(0xBB67AE8584CAA73B)
ROUNDS: Final = 10
UNUSED: Final = 8  # bits of 32

long_pointer = pointer_to(types.int64)


@njit(**STRICT)
def _kept(word, least):
    """Two bits: whether the word's halves are numbers to keep."""
    low, high = (word & uint64(0xFFFFFFFF)) >> uint64(UNUSED), word >> uint64(32 + UNUSED)
    return uint64(low >= least) | uint64(high >= least) << uint64(1)


@njit(**STRICT)
def _mask(block, draw, seed, name, least):
    """The eight bits of a block."""
    a, b, c, d = uint64(block) + uint64(1), uint64(draw), uint64(0), uint64(0)
    for _ in range(ROUNDS):
        first, second = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, c = high_product(c, MULTIPLIERS[1]) ^ b ^ seed, high_product(a, MULTIPLIERS[0]) ^ d ^ name
        b, d = second, first
        seed, name = seed + WEYL[0], name + WEYL[1]
    halves = _kept(a, least) | _kept(b, least) << uint64(2)
    return halves | _kept(c, least) << uint64(4) | _kept(d, least) << uint64(6)


@njit(**STRICT)
def _keep(job, block, mask):
    """result = value factor where the mask has a bit, else value 0."""
    first = block * LANES
    if first + LANES <= job.count:
        factors = where_bits(int64(mask), spread(job.factor))
        store(job.results + 4 * first, multiply(load(job.values + 4 * first), factors))
        return
    values = carray(float_pointer(job.values), job.count)
    results = carray(float_pointer(job.results), job.count)
    for i in range(first, job.count):
        results[i] = values[i] * (job.factor if mask >> uint64(i - first) & uint64(1) else 0)


def forward(pointer):
    """Draws the mask and keeps what it says."""
    job = carray(pointer, 1)[0]
    blocks = (job.count + LANES - 1) // LANES
    masks, draw = carray(byte_pointer(job.mask), blocks), carray(long_pointer(job.draw), 1)[0]
    least = uint64(job.least)
    for block in range(*share(blocks)):
        mask = _mask(block, draw, job.seed, job.name, least)
        if job.mask:
            masks[block] = mask
        _keep(job, block, mask)


def advance(pointer):
    """Moves on to the next draw, in one thread."""
    carray(long_pointer(carray(pointer, 1)[0].draw), 1)[0] += 1


def backward(pointer):
    """The same with the mask that is there."""
    job = carray(pointer, 1)[0]
    blocks = (job.count + LANES - 1) // LANES
    masks = carray(byte_pointer(job.mask), blocks)
    for block in range(*share(blocks)):
        _keep(job, block, uint64(masks[block]))


LOOPS: Final = {"forward": forward, "advance": advance, "backward": backward}
OPTIONS: Final = dict.fromkeys(LOOPS, STRICT)
