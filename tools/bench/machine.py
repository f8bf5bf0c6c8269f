"""What the figures were measured on: processor, cores, versions."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from netc.cores import cores_allowed
from netc.version import __version__

PACKAGES: Final = ("numpy", "onednn-cpu-gomp", "numba", "torch", "cupy-cuda12x", "cupy-cuda13x")
VECTOR_FLAGS: Final = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def processor_name() -> str:
    """The processor's model, as the system knows it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def slug(name: str) -> str:
    """A name as part of a file's: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm|c)\)", "", name.lower())).strip("-")


def describe_machine() -> dict[str, Any]:
    """The processor, its vector units, the cores that this process may use, and the system."""
    flags = processor_flags()
    return {
        "processor": processor_name(),
        "vector_units": [flag for flag in VECTOR_FLAGS if flag in flags],
        "cores": cores_allowed(),
        "system": f"{platform.system()} {platform.release()}",
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "OMP_NUM_THREADS": "set for every contender to the number of threads of its measurement",
    }


def processor_flags() -> set[str]:
    """What /proc/cpuinfo says the processor can do."""
    try:
        found = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return set()
    return set(found[1].split()) if found else set()


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """The versions of Python, netc and the packages that are installed."""
    found = {"python": platform.python_version(), "netc": __version__}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
