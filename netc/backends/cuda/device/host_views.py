"""A device's arrays as their users see them on the host: copies, brought up to date when asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from netc.backends.cuda.device.arrays import empty_like, in_memory_order, is_turned
from netc.backends.cuda.device.device import Device

Place = tuple[int, tuple[int, ...], str, bool]  # address, shape, type, whether it is turned


class HostViews:
    """Copies of device arrays. As in Caffe, a copy that was handed out counts as written until the next
    `push` has taken it to the device; from then on the device's values count."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._copies: dict[Place, np.ndarray] = {}
        self._handed_out: dict[Place, Any] = {}

    def view(self, array: Any) -> np.ndarray:
        """The array's values now. The same array has the same view each time."""
        memory = self._device.memory_of(array)
        place = (memory.address, tuple(array.shape), array.dtype.str, is_turned(array))
        if place not in self._handed_out:
            copy = self._copies.setdefault(place, empty_like(array))
            self._device.download(memory, in_memory_order(copy))
            self._handed_out[place] = array
        return self._copies[place]

    def push(self) -> None:
        """Takes every view that was handed out since the last push to the device."""
        for place, array in self._handed_out.items():
            self._device.upload(self._device.memory_of(array), in_memory_order(self._copies[place]))
        self._handed_out.clear()

    def forget(self) -> None:
        """Drops all copies: their arrays are gone, or are another program's now."""
        self.push()
        self._copies.clear()
