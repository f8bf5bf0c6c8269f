"""Makes several devices of one kind work together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from netc.backends.cuda.device import Device
from netc.backends.cuda.device.collectives import Collective
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.emulator.collectives import join_emulated
from netc.backends.cuda.gpu import CupyDevice
from netc.backends.cuda.gpu.nccl import join_gpus
from netc.errors import NetcError

PATIENCE_SECONDS: Final = 120.0


def join(devices: Sequence[Device], patience: float = PATIENCE_SECONDS) -> Sequence[Collective]:
    """The collectives of several devices of one process, in the order of their ranks.

    patience: for how many seconds the emulator lets a rank wait for another.
    Raises NetcError where the devices cannot work together.
    """
    names = ", ".join(device.properties.name for device in devices)
    if not devices or len(set(map(id, devices))) < len(devices):
        raise NetcError("every rank needs a device of its own", found=names or "no device")
    emulated = [device for device in devices if isinstance(device, EmulatedDevice)]
    gpus = [device for device in devices if isinstance(device, CupyDevice)]
    if len(emulated) == len(devices):
        return join_emulated(emulated, patience)
    if len(gpus) == len(devices):
        return join_gpus(gpus)
    raise NetcError("devices of different kinds cannot work together", expected="one kind", found=names)
