"""Arrays to and from a device, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Device, Memory

PLANTED = Path(__file__).resolve().parent / "planted"


def put(device: Device, array: Any, name: str = "input", skew: int = 0) -> Memory:
    """Memory of exactly the array's size that holds it; `skew` bytes past an aligned address."""
    array = np.asarray(array)
    whole = device.allocate(array.nbytes + skew, name)
    memory = whole.part(skew, array.nbytes, name)
    device.upload(memory, array)
    return memory


def room(device: Device, count: int, dtype: Any = np.float32, name: str = "output", skew: int = 0) -> Memory:
    """Memory for so many elements, which nobody has written."""
    nbytes = count * np.dtype(dtype).itemsize
    return device.allocate(nbytes + skew, name).part(skew, nbytes, name)


def get(device: Device, memory: Memory, shape: Any = -1, dtype: Any = np.float32) -> np.ndarray:
    """What the memory holds."""
    return device.download(memory, np.empty(memory.nbytes // np.dtype(dtype).itemsize, dtype)).reshape(shape)


def planted(file: str, kernel: str, threads: int = 1024, **options: Any) -> Variant:
    """A kernel of tests/cuda/planted."""
    return Variant(kernel, str(PLANTED / file), kernel, threads, **options)


def line_of(file: str, kernel: str) -> int:
    """The line of a planted file that is marked as the kernel's bug."""
    lines = (PLANTED / file).read_text(encoding="utf-8").splitlines()
    (found,) = [number for number, line in enumerate(lines, start=1) if line.endswith(f"BUG {kernel}")]
    return found
