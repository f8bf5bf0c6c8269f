"""Finished batches on their way to a device: through pinned memory, so that the host need not wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from netc.backends.cuda.device import Device, Event
from netc.data.source import Source
from netc.layer import Array

ALIGNED = 256  # bytes; where the arrays of a batch begin


@dataclass
class Buffer:
    """Pinned bytes; copied: when the device has all that was written there last."""

    memory: np.ndarray
    copied: Event | None = None


@dataclass
class Pinned:
    """What the batches of one source are written into in turn, as large as the largest was."""

    device: Device
    buffers: list[Buffer] = field(default_factory=list)

    def take(self, nbytes: int) -> Buffer:
        """The buffer whose turn it is, when it may be written to."""
        if len(self.buffers) < 2 or len(self.buffers[0].memory) < nbytes:
            self.settle()
            self.buffers = [Buffer(self.device.pinned(nbytes)) for _ in range(2)]
        buffer = self.buffers.pop(0)
        self.buffers.append(buffer)
        if buffer.copied is not None:
            buffer.copied.wait()
        return buffer

    def settle(self) -> None:
        """Returns when the device has all that was written."""
        for buffer in self.buffers:
            if buffer.copied is not None:
                buffer.copied.wait()


class BatchFeed:
    """Brings the batches of a source into a program's tops, one with each call."""

    def __init__(self, pinned: Pinned, source: Source, tops: Sequence[Array]) -> None:
        self._pinned, self._source = pinned, source
        device = pinned.device
        self._tops: list[tuple[Any, slice, Array]] = []
        end = 0
        for top in tops:
            place = slice(end, end + top.nbytes)
            self._tops.append((device.memory_of(top, "a batch"), place, top))
            end += -(-top.nbytes // ALIGNED) * ALIGNED
        self._nbytes = end

    def __call__(self) -> None:
        device, buffer = self._pinned.device, self._pinned.take(self._nbytes)
        batch = self._source.next()
        for (_, place, top), values in zip(self._tops, batch, strict=True):
            buffer.memory[place].view(top.dtype).reshape(top.shape)[...] = values
        read = device.mark()  # the pass before may still be at work on the tops
        for memory, place, _ in self._tops:
            buffer.copied = device.send(memory, buffer.memory[place], read)
        if buffer.copied is not None:  # of copies that are sent, the last to be asked for is the last to end
            device.wait_for(buffer.copied)


def can_send(tops: Sequence[Array]) -> bool:
    """Whether tops are as a batch's arrays lie."""
    return all(top.flags.c_contiguous and top.size for top in tops)
