"""Memory between two pages that nobody may touch: what runs over its end faults even in fast mode."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

from netc.errors import NetcError

PAGE = mmap.PAGESIZE
ALIGNMENT = 256  # as cudaMalloc's
PROT_NONE = 0


class Pages:
    """`nbytes` of memory at `address`; `bytes` shows it as an array, and arrays keep it alive."""

    def __init__(self, nbytes: int) -> None:
        inside = -(-max(nbytes, 1) // PAGE) * PAGE
        try:
            whole = np.frombuffer(mmap.mmap(-1, inside + 2 * PAGE), np.uint8)
        except OSError as error:
            raise NetcError(
                "this machine cannot give the emulated device its memory",
                found=f"{nbytes:,} bytes in one piece",
                remedy="a smaller batch_size, or a machine with more memory",
            ) from error
        self._guards = (whole.ctypes.data, whole.ctypes.data + PAGE + inside)
        for guard in self._guards:
            _protect(guard, PROT_NONE)
        # As near to the end as the alignment allows.
        start = PAGE + (inside - nbytes) // ALIGNMENT * ALIGNMENT
        self.bytes = whole[start : start + nbytes]
        self.address: int = self.bytes.ctypes.data


def _protect(address: int, access: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), access):
        raise NetcError("the emulator cannot protect the page beside its memory")
