"""How a flat array is dealt out to threads: kernels/elementwise.cuh's other half."""

from __future__ import annotations

from netc.backends.cuda.device import Device, Memory

THREADS = 256
PACKS = (4, 1)  # floats that a thread takes at once; the first needs addresses that are multiples of 16
BLOCKS_PER_PROCESSOR = 16  # enough to keep a processor's 2048 threads busy twice over
FLOAT_BYTES = 4


def pack_of(*memories: Memory | None) -> int:
    """The most floats that can be taken at once from all of these."""
    fits = all(memory is None or memory.address % (4 * FLOAT_BYTES) == 0 for memory in memories)
    return PACKS[0] if fits else 1


def blocks_for(device: Device, count: int, pack: int) -> int:
    """How many blocks of `THREADS` threads a grid-stride loop over `count` elements is given."""
    needed = -(-count // (THREADS * pack))
    return max(1, min(needed, BLOCKS_PER_PROCESSOR * device.properties.processors))
