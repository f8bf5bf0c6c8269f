"""Split on the device: the gradients of all tops are added up in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from netc.backends.cuda.device import Device
from netc.backends.cuda.device.form import DeviceForm, fits
from netc.backends.cuda.layers.eltwise import add
from netc.backends.form import Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers


class Split(DeviceForm):
    """Up to 8 gradients are read once each, and their sum is written once."""

    variant = "sum"

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        super().__init__(nodes, device)
        self.keep_layout()

    def forward(self, b: Buffers) -> Run | None:
        return None  # the tops are the bottom's memory

    def backward(self, b: Buffers) -> Run | None:
        dx = self.memory(b.bottom_grads[0])
        given = [self.memory(dy) for dy in b.top_grads if dy is not None]
        if not given:
            return partial(self.device.fill, dx)
        return add(self.device, given, dx)


def make_split(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    return Split(nodes, device) if fits(nodes) else None


FORMS: dict[tuple[str, ...], Maker] = {("Split",): make_split}
