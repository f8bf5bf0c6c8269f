"""Reads an HDF5 file to its end in a process of its own: a damaged one can hang or kill the HDF5 library.

Run as a program with the path and a number of processor seconds. Ends with 0 where all is read, with 1 and
the reason on standard output where the library reports damage, with a signal where it dies or time is up.
"""

from __future__ import annotations

import resource
import signal
import sys
from typing import Any

import h5py

from netc.schema.stored import pieces

PIECE = 1 << 24
"""Bytes read at a time."""
CLOCK_FACTOR = 20


def main(path: str, seconds: str) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Both send signals that end the process, also within the library; the clock is for a disk that hangs.
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
    signal.alarm(int(seconds) * CLOCK_FACTOR)
    try:
        with h5py.File(path, "r") as file:
            file.visititems(_read)
    except Exception as error:
        sys.stdout.write((str(error) or type(error).__name__).splitlines()[0])
        return 1
    return 0


def _read(name: str, item: Any) -> None:
    if not isinstance(item, h5py.Dataset) or not item.shape:
        return
    # Storage that was never written reads as fill values: there is nothing there to be damaged.
    if item.id.get_storage_size():
        for piece in pieces(item.shape, PIECE // item.dtype.itemsize):
            item[piece]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
