"""Batches of raw images on their way to a device: the next goes up while the one before is trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from netc.backends.cuda.device import Device, Event, Memory
from netc.backends.cuda.device.form import MOST_ELEMENTS
from netc.backends.cuda.iteration.augment import Batch, augment
from netc.backends.form import Run
from netc.data.raw_images import RawBatch, RawImages
from netc.data.source import Source
from netc.layer import Array


@dataclass
class Slot:
    """Memory for one batch. batch: what lies there, or is on its way; read: when nobody reads it any more."""

    memory: Memory
    batch: RawBatch | None = None
    arrived: Event | None = None
    read: Event | None = None

    def settle(self) -> None:
        """Returns when the memory that its batch came from may change."""
        if self.arrived is not None:
            self.arrived.wait()


class Staging:
    """Where a source's batches arrive on a device: two slots in turn, and the mean to subtract."""

    def __init__(self, device: Device, images: RawImages) -> None:
        """Raises NetcError where the device has too little memory."""
        self.device, self.images = device, images
        self._arrays: list[Array] = []  # they keep the memory
        self.slots = [Slot(self._allocate(images.nbytes, f"raw batch {number}")) for number in range(2)]
        self.mean_values = self._put(images.mean_values, "mean values")
        self.mean_image = self._put(images.mean_image, "mean image")
        self.latest: Slot | None = None  # what was brought in last
        self._turn = 0

    def _allocate(self, nbytes: int, name: str) -> Memory:
        self._arrays.append(self.device.allocate_array(nbytes, name))
        return self.device.memory_of(self._arrays[-1], name)

    def _put(self, values: np.ndarray | None, name: str) -> Memory | None:
        if values is None:
            return None
        memory = self._allocate(values.nbytes, name)
        self.device.upload(memory, values)
        return memory

    def holding(self, batch: RawBatch) -> Slot | None:
        """The slot that a batch has been sent to already."""
        return next((slot for slot in self.slots if slot.batch is batch), None)

    def send(self, batch: RawBatch) -> Slot:
        """Lets a batch go up to the slot whose turn it is."""
        slot = self.slots[self._turn]
        self._turn = 1 - self._turn
        slot.settle()
        slot.batch = batch
        slot.arrived = self.device.send(slot.memory, batch.memory, slot.read)
        return slot

    def settle(self) -> None:
        """Returns when the memory that the last batch brought in came from may change."""
        if self.latest is not None:
            self.latest.settle()

    def into(self, slot: Slot, tops: Sequence[Array]) -> list[Run]:
        """The work that makes a program's tops of what lies in a slot."""
        images, device = self.images, self.device
        count, channels, height, width = images.shape
        pixels = math.prod(images.shape)
        runs = [
            augment(
                device,
                Batch(count, channels, height, width, *images.crop),
                slot.memory.part(images.pixel_offset, pixels, "pixels"),
                slot.memory.part(0, images.label_offset, "places"),
                device.memory_of(tops[0], "images"),
                scale=images.scale,
                mean_values=self.mean_values,
                mean_image=self.mean_image,
            )
        ]
        if images.labelled:
            labels = slot.memory.part(images.label_offset, 4 * count, "labels")
            target = device.memory_of(tops[1], "labels of the net")
            runs.append(partial(device.copy, target, labels))
        return runs


class ImageFeed:
    """Brings the batches of a source into a program's tops, one with each call.

    The source's position is that of the batches brought in; one that is on its way ahead does not count.
    """

    def __init__(
        self,
        staging: Staging,
        source: Source,
        tops: Sequence[Array],
        write: Callable[[Array, np.ndarray], None],
    ) -> None:
        """write: brings in a top of a batch that is not raw."""
        self._staging, self._source = staging, source
        self._tops, self._write = tops, write
        self._runs = [(slot, staging.into(slot, tops)) for slot in staging.slots]

    def __call__(self) -> None:
        # With its next batch the source takes back the memory of the one before.
        self._staging.settle()
        batch = self._source.next_raw(self._staging.device.pinned)
        if isinstance(batch, RawBatch):
            self._bring_in(self._staging.holding(batch) or self._staging.send(batch))
        else:
            for top, values in zip(self._tops, batch, strict=True):
                self._write(top, values)
        ahead = self._source.raw_ahead()
        if ahead is not None:
            self._staging.send(ahead)

    def _bring_in(self, slot: Slot) -> None:
        device = self._staging.device
        assert slot.arrived is not None
        device.wait_for(slot.arrived)
        for run in next(runs for own, runs in self._runs if own is slot):
            run()
        slot.read = device.mark()
        self._staging.latest = slot


def can_feed(images: RawImages, tops: Sequence[Array]) -> bool:
    """Whether the kernel makes these tops of a source's raw images."""
    count, channels = images.shape[:2]
    fits = tops[0].shape == (count, channels, *images.crop) and 0 < tops[0].size < MOST_ELEMENTS
    return fits and tops[0].dtype == np.float32
