"""Memory for the decoded images of a batch, used again for the next: fresh pages cost more than decoding."""

from __future__ import annotations

import math
import threading

import numpy as np

from netc.data.source import Shape


class PixelRoom(threading.local):
    """Every thread that decodes has memory of its own, as large as the largest of its batches so far.

    `clear()` before a batch; after it nobody may look at the images of the one before.
    """

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)
        self._used = 0

    def clear(self) -> None:
        self._used = 0

    def take(self, shape: Shape) -> np.ndarray:
        """A uint8 array with whatever was there before."""
        size = math.prod(shape)
        if self._used + size > len(self._memory):
            # What was taken before keeps the old memory alive for as long as it is needed.
            self._memory = np.empty(2 * len(self._memory) + size, np.uint8)
            self._used = 0
        taken = self._memory[self._used : self._used + size].reshape(shape)
        self._used += size
        return taken
