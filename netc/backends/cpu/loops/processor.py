"""What the processor is and can do, as the system describes it."""

from __future__ import annotations

import platform
from functools import lru_cache
from pathlib import Path
from typing import Final

DESCRIPTION: Final = Path("/proc/cpuinfo")
FACTS: Final = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
FACTS_OF_ARM: Final = ("CPU implementer", "CPU variant", "CPU part", "CPU revision", "Features")
LANES: Final = {"avx512f": 16, "fma": 8}  # the floats of a vector, by what a processor can do


def vector_lanes() -> int:
    """The floats of this processor's vectors; 0 where it cannot multiply and add vectors in one step."""
    flags = _described().get("flags", "").split()
    return next((lanes for flag, lanes in LANES.items() if flag in flags), 0)


def processor() -> str:
    """The processor's model and abilities in words; code made for it runs wherever these are the same."""
    described = _described()
    facts = [f"{name}: {described[name]}" for name in (*FACTS, *FACTS_OF_ARM) if name in described]
    return "\n".join([platform.machine(), *facts])


@lru_cache(None)
def _described() -> dict[str, str]:
    """The first processor's description; empty where the system gives none. Others are alike: only what
    cores have in common is promised to programs."""
    found = {}
    try:
        with DESCRIPTION.open(encoding="utf-8") as lines:
            for line in lines:
                name, colon, value = line.partition(":")
                if not colon:
                    break
                found[name.strip()] = value.strip()
    except OSError:
        pass
    return found
