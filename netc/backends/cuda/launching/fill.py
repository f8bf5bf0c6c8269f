"""Setting and copying floats on the device: the table of kernels/fill.cu, and its launches."""

from __future__ import annotations

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Device, Memory
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES, PACKS, THREADS, blocks_for, pack_of

VARIANTS = {
    (kernel, pack): Variant(f"{kernel} pack {pack}", "fill.cu", f"{kernel}<{pack}>", THREADS)
    for kernel in ("fill", "copy", "copy_rows")
    for pack in PACKS
}


def fill(device: Device, y: Memory, value: float) -> None:
    """Sets all floats of y."""
    count, pack = y.nbytes // FLOAT_BYTES, pack_of(y)
    kernel = device.load(VARIANTS["fill", pack])
    grid = (blocks_for(device, count, pack),)
    device.launch(kernel, grid, (THREADS,), (np.int64(count), np.float32(value), y))


def copy(device: Device, x: Memory, y: Memory) -> None:
    """Copies all floats of x to the beginning of y."""
    count, pack = x.nbytes // FLOAT_BYTES, pack_of(x, y)
    kernel = device.load(VARIANTS["copy", pack])
    device.launch(kernel, (blocks_for(device, count, pack),), (THREADS,), (np.int64(count), x, y))


def copy_rows(
    device: Device, rows: int, columns: int, x: Memory, x_pitch: int, y: Memory, y_pitch: int
) -> None:
    """Copies rows of `columns` floats, which begin `x_pitch` floats apart in x and `y_pitch` in y."""
    divides = all(length % PACKS[0] == 0 for length in (columns, x_pitch, y_pitch))
    pack = pack_of(x, y) if divides else 1
    kernel = device.load(VARIANTS["copy_rows", pack])
    arguments = (np.int64(rows), np.int64(columns), x, np.int64(x_pitch), y, np.int64(y_pitch))
    device.launch(kernel, (blocks_for(device, rows * columns, pack),), (THREADS,), arguments)
