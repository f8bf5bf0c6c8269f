"""Counter-based random streams: a draw is a pure function of (seed, name, number), so that a resume repeats
it exactly.

The generator is Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
"""

from __future__ import annotations

import zlib
from types import ModuleType
from typing import Any

import numpy as np

MASK_64 = (1 << 64) - 1


def stream(xp: ModuleType, seed: int, name: str, draw: int) -> Any:
    """The random generator for the draw-th use of the stream that `name` (a layer, a filler, a file) has
    under `seed`.

    Over NumPy a `numpy.random.Generator`; over another array module its own generator of the same key.
    """
    key = key_of(seed, name)
    if xp is np:
        # The low counter word counts within a draw: 2**64 blocks never run into the next draw's.
        words, counter = np.array(key, np.uint64), np.array([0, draw & MASK_64, 0, 0], np.uint64)
        return np.random.Generator(np.random.Philox(key=words, counter=counter))
    seed_of_draw = np.random.SeedSequence([*key, draw & MASK_64]).generate_state(1, np.uint64)[0]
    return xp.random.Generator(xp.random.Philox4x3210(int(seed_of_draw)))


def key_of(seed: int, name: str) -> tuple[int, int]:
    """The generator's key for the stream that `name` has under `seed`: two words of 64 bits."""
    return seed & MASK_64, zlib.crc32(name.encode())
