"""Random draws of the data side: each is a pure function of (seed, purpose, index), so that a resume repeats
it.

The generator is Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
"""

from __future__ import annotations

import zlib

import numpy as np

MASK_64 = (1 << 64) - 1


def generator(seed: int, purpose: str, index: int) -> np.random.Generator:
    """The generator for the index-th use that `purpose` (such as "layer/mirror") makes of `seed`."""
    key = [seed & MASK_64, zlib.crc32(purpose.encode())]
    # The low counter word counts within a draw: 2**64 blocks never run into the next index.
    return np.random.Generator(np.random.Philox(key=key, counter=[0, index & MASK_64, 0, 0]))


def permutation(seed: int, purpose: str, index: int, length: int) -> np.ndarray:
    """A permutation of `range(length)` as int64."""
    return generator(seed, purpose, index).permutation(length)


def below(seed: int, purpose: str, limit: int) -> int:
    """One whole number in [0, limit); 0 where limit is 0 (Caffe's `rand_skip`)."""
    return int(generator(seed, purpose, 0).integers(limit)) if limit else 0
