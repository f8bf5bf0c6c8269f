"""Which device a user means: `-gpu 0`, `-gpu emulated`."""

from __future__ import annotations

import re

from netc.backends.cuda.device import Device
from netc.errors import NetcError

EMULATED = re.compile(r"emulated(?::(\d+))?")
EXPECTED = "the number of a GPU, such as 0, or emulated, or emulated:1 for a second emulated device"


def open_device(choice: str | int, *, check: bool = False) -> Device:
    """The device of a choice: a GPU's number, "emulated", or "emulated:1" for a second emulated device.

    check: whether an emulated device checks every access.
    Raises NetcError where there is no such device, or where several are named.
    """
    text = str(choice).strip()
    emulated = EMULATED.fullmatch(text)
    if emulated:
        from netc.backends.cuda.emulator import EmulatedDevice

        return EmulatedDevice(int(emulated[1] or 0), check=check)
    if text == "all" or "," in text:
        raise NetcError(
            "training on several GPUs is not there yet",
            expected=EXPECTED,
            found=text,
            remedy="name one GPU, as in -gpu 0",
        )
    if not text.isdecimal():
        raise NetcError("this names no device", expected=EXPECTED, found=repr(text))
    from netc.backends.cuda.gpu import CupyDevice

    return CupyDevice(int(text))
