"""The two arguments of a Divisor give exact quotients of all 32-bit numbers."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cuda.launching.division import divisor


@pytest.mark.parametrize("by", [1, 2, 3, 7, 49, 641, 3136, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1])
def test_quotients_at_every_edge(by: int) -> None:
    number, reciprocal = divisor(by)
    assert number == by
    multiples = [by * k for k in range(4)] + [by * (2**32 // by), by * (2**31 // by)]
    drawn = np.random.default_rng(by).integers(0, 2**32, 1000).tolist()
    edges = [n + step for n in multiples for step in (-1, 0, 1)]
    for n in (*drawn, *(n for n in edges if 0 <= n < 2**32), 2**32 - 1):
        upper_half = int(reciprocal) * n >> 64
        assert (upper_half if reciprocal else n) == n // by
