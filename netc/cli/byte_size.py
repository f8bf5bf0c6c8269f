"""Sizes of memory as people write them: 512MB, 1.5GiB, 2000000."""

from __future__ import annotations

import re
from typing import Final

EXPECTED: Final = "a number of bytes, such as 2000000, 512MB or 1.5GiB"
PREFIXES: Final = {"K": 3, "M": 6, "G": 9, "T": 12}
UNITS: Final = {
    "": 1,
    "B": 1,
    **{f"{prefix}B": 10**exponent for prefix, exponent in PREFIXES.items()},
    **{f"{prefix}IB": 2 ** (exponent // 3 * 10) for prefix, exponent in PREFIXES.items()},
}


def read_bytes(text: str) -> int:
    """The bytes that a text names, in units of 1000 (KB, MB, GB) or 1024 (KiB, MiB, GiB).

    Raises ValueError for anything else, and for less than one byte.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*", text)
    if found is None or found[2].upper() not in UNITS:
        raise ValueError(text)
    size = int(float(found[1]) * UNITS[found[2].upper()])
    if size < 1:
        raise ValueError(text)
    return size
