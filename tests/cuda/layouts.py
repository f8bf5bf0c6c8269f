"""A device's backend that works in one layout, for tests of what would elsewhere be chosen by the clock."""

from __future__ import annotations

from collections.abc import Sequence

from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.device import Device
from netc.backends.form import PLAIN


class LaidOut(CudaBackend):
    """Offers one layout wherever users do not look at every blob."""

    def __init__(
        self, device: Device, math: str = "fp32", deterministic: bool = False, *, layout: str
    ) -> None:
        super().__init__(device, math, deterministic)
        self.layout = layout

    def layouts(self, keep_all: bool) -> Sequence[str]:
        return (PLAIN,) if keep_all else (self.layout,)
