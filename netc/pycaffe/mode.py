"""The settings that pycaffe keeps for a process: the device and the random seed."""

from __future__ import annotations

from netc.errors import NetcError

_seed: int | None = None


def set_mode_cpu() -> None:
    """Nets run on the CPU; they always do until `set_mode_gpu` finds a backend for a GPU."""


def set_mode_gpu() -> None:
    """Raises NetcError: nets do not run on a GPU yet."""
    raise NetcError("nets do not run on a GPU yet", remedy="leave out set_mode_gpu(), or call set_mode_cpu()")


def set_device(device: int) -> None:
    """Chooses the GPU that `set_mode_gpu` turns to; without effect on the CPU."""


def set_random_seed(seed: int) -> None:
    """The seed of the fillers, dropout and data of nets made from now on."""
    global _seed
    _seed = seed


def random_seed() -> int | None:
    """The seed set, None for one from the operating system."""
    return _seed
