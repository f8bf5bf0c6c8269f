"""How many threads compute on the CPU, and the cores that this process may use."""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path
from typing import Final

CGROUP: Final = Path("/sys/fs/cgroup")
SELF: Final = Path("/proc/self/cgroup")


def cores_allowed() -> int:
    """The cores that this process may use: its affinity, cut to the time that its control groups allow."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _quota()
    return max(1, min(cores, math.ceil(quota))) if quota else cores


def set_threads(count: int) -> None:
    """Lets oneDNN compute with this many threads.

    Primitives keep the number that held when they were made: call it before.
    """
    openmp = _openmp()
    if openmp is not None:
        openmp.omp_set_num_threads(max(1, count))


def forbid_changing_teams() -> None:
    """Holds OpenMP to the number of threads it was told.

    oneDNN waits at barriers for every thread that it counted on: it would hang if some never came.
    """
    os.environ.pop("OMP_DYNAMIC", None)
    openmp = _openmp()
    if openmp is not None:
        openmp.omp_set_dynamic(0)


def _openmp() -> ctypes.CDLL | None:
    """GNU's OpenMP, which oneDNN is linked with; None where the machine has none."""
    try:
        return ctypes.CDLL("libgomp.so.1")
    except OSError:
        return None


def _quota() -> float | None:
    """Cores' worth of time that the process's control groups allow; None without a limit."""
    limits = [limit for folder in _groups() if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def _groups() -> list[Path]:
    """The folders of the control groups that this process is in, with those above them."""
    try:
        lines = SELF.read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" or "cpu" in controllers.split(","):
            root = CGROUP if number == "0" else CGROUP / "cpu"
            inside = Path(path.lstrip("/"))
            folders += [root / inside, *(root / above for above in inside.parents)]
    return list(dict.fromkeys(folders))


def _limit(folder: Path) -> float | None:
    """A control group's own limit, as version 2 or version 1 writes it."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = (
                (folder / name).read_text().strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            )
        return int(quota) / int(period) if quota != "max" and int(quota) > 0 else None
    except (OSError, ValueError):
        return None
