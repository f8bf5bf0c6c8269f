"""The journal on a device: the table of kernels/journal.cu, its launches, and how far the host runs ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Device, Event
from netc.backends.cuda.launching import Launch, in_order
from netc.backends.form import Run
from netc.layer import Array

ROWS = 64
AHEAD = 4  # runs that may be under way: enough that the device never waits, few enough that a stop comes soon
NUMBERS = 4  # that one launch takes
WORD = 4  # bytes
VARIANTS = {"write": Variant("write_row", "journal.cu", "write_row", 1)}


class DeviceJournal:
    """As `netc.backends.journal.Journal`, in a ring of rows in device memory."""

    rows = ROWS

    def __init__(self, device: Device, width: int, notes: Sequence[Array] = ()) -> None:
        """width: the numbers of a row, those of `notes` included, which come first."""
        self._device, self._width, self._notes = device, width, tuple(notes)
        nbytes = WORD * (1 + ROWS * width)
        self._array = device.allocate_array(nbytes, "journal")
        self._memory = device.memory_of(self._array, "journal")
        self._taken = 0  # of all rows ever written
        self._marks: deque[Event] = deque()

    def writing(self, numbers: Sequence[Array]) -> Run:
        """As in `Journal`."""
        device, memory = self._device, self._memory
        sources = [device.memory_of(array) for array in (*self._notes, *numbers)]
        written, rows = memory.part(0, WORD), memory.part(WORD, memory.nbytes - WORD)
        launches = []
        for first in range(0, len(sources), NUMBERS):
            place = [np.int32(number) for number in (ROWS, self._width, first)]
            last = np.bool_(first + NUMBERS >= len(sources))
            some = (*sources[first : first + NUMBERS], *[None] * NUMBERS)[:NUMBERS]
            arguments = (written, rows, *place, last, *some)
            launches.append(Launch.of(device, VARIANTS["write"], (1,), arguments, self._array, *numbers))
        return in_order(*launches)

    def pace(self) -> None:
        """As in `Journal`."""
        self._marks.append(self._device.mark())
        if len(self._marks) > AHEAD:
            self._marks.popleft().wait()

    def take(self) -> np.ndarray:
        """As in `Journal`."""
        self._marks.clear()
        words = self._device.download(self._memory, np.empty(1 + ROWS * self._width, np.uint32))
        new = np.arange(self._taken, int(words[0]))
        self._taken = int(words[0])
        rows: np.ndarray = words[1:].view(np.float32).reshape(ROWS, self._width)[new % ROWS]
        return rows
