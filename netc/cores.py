"""The processor cores that this process may use, and the number of threads that compute on them.

Nothing is imported here that computes: it is asked before such libraries are loaded.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

CGROUP: Final = Path("/sys/fs/cgroup")
OWN_GROUPS: Final = Path("/proc/self/cgroup")
CPU: Final = "cpu"  # the controller of version 1 that limits time
# What libraries that compute read when they are loaded; OpenBLAS and MKL, too, follow the first.
THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def thread_count() -> int:
    """The threads that compute: what the environment says, else the cores that this process may use.

    Sums split over another number may differ in the last bits.
    """
    for variable in THREAD_VARIABLES:
        value = os.environ.get(variable, "").split(",")[0].strip()  # OpenMP's: by level of nesting
        if value.isdigit() and int(value) > 0:
            return int(value)
    return cores_allowed()


def cores_allowed() -> int:
    """The cores of this process's affinity, or fewer where its control groups allow less time than they have.

    Part of a core counts as one: half a core's time still runs one thread.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, math.ceil(min(_limits(OWN_GROUPS, CGROUP), default=cores))))


def _limits(own_groups: Path, mounted: Path) -> list[float]:
    """The cores' worth of time that each control group of this process allows, with those above it."""
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        return []
    folders = {}
    for line in lines:
        number, controllers, group = line.split(":", 2)
        version_2 = number == "0"
        if not (version_2 or CPU in controllers.split(",")):
            continue
        inside = Path(group.lstrip("/"))
        for root in (mounted, mounted / "unified") if version_2 else (mounted / controllers, mounted / CPU):
            folders.update(dict.fromkeys(root / path for path in (inside, *inside.parents)))
    return [limit for folder in folders if (limit := _limit(folder)) is not None]


def _limit(folder: Path) -> float | None:
    """The limit of one control group, written as version 2 or as version 1 does; None without one."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((folder / name).read_text() for name in names).split()
            if quota != "max" and int(quota) > 0:
                return int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return None
