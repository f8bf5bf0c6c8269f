"""What decides which kernels a device can run, and how they are launched."""

from __future__ import annotations

from dataclasses import dataclass

Grid = tuple[int, ...]


@dataclass(frozen=True)
class DeviceProperties:
    """What decides which kernels fit and how they are launched.

    name: of this device; model: of all that are like it. The limits that have a value here are the same on
    all GPUs since sm_75.
    """

    name: str
    architecture: int  # 90 for sm_90
    processors: int  # streaming multiprocessors
    memory_bytes: int
    shared_bytes: int  # most dynamic and static shared memory of a block
    model: str = "emulated"
    static_shared_bytes: int = 48 * 1024
    threads: int = 1024
    block: Grid = (1024, 1024, 64)
    grid: Grid = (2**31 - 1, 65535, 65535)
