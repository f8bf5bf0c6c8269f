"""What pycaffe keeps for a process: the device, the random seed, and this process's place among several."""

from __future__ import annotations

import threading
from typing import Any

from netc.backends.backend import Backend
from netc.backends.open import open_backend
from netc.errors import NetcError
from netc.layer.registry import LAYER_TYPES

_lock = threading.Lock()
_seed: int | None = None
_seeded = 0  # how many nets and solvers have been given a seed since it was set
_SEED_STEP = 0x9E3779B1  # spreads the seeds of nets made one after another
_solvers = {"count": 1, "rank": 0}


_place: dict[str, Any] = {"device": 0, "gpu": False}
_backends: dict[str, Backend] = {}


def set_mode_cpu() -> None:
    """Nets made from now on run on the CPU, as they do at first."""
    _place["gpu"] = False


def set_mode_gpu() -> None:
    """Nets made from now on run on the GPU that `set_device` has chosen, number 0 by default.

    Raises NetcError where there is none; netc.set_device("emulated") runs its kernels on the CPU.
    """
    _backend_of(_place["device"])
    _place["gpu"] = True


def set_device(device: int | str) -> None:
    """Chooses the GPU that `set_mode_gpu` turns to, by number; "emulated" for the emulator."""
    _place["device"] = device
    if _place["gpu"]:
        set_mode_gpu()


def backend() -> Backend | None:
    """Where a net that is made now runs; None for the CPU."""
    return _backend_of(_place["device"]) if _place["gpu"] else None


def _backend_of(device: int | str) -> Backend:
    """The nets of one device share it."""
    with _lock:
        if str(device) not in _backends:
            _backends[str(device)] = open_backend(device)
        return _backends[str(device)]


def set_random_seed(seed: int) -> None:
    """From now on fillers, dropout and data repeat: the first net made after this call always draws the same
    numbers, the second other ones that are always the same too."""
    global _seed, _seeded
    with _lock:
        _seed, _seeded = int(seed), 0


def random_seed() -> int | None:
    """The seed of the next net; None, for one from the operating system, where `set_random_seed` was never
    called."""
    global _seeded
    with _lock:
        if _seed is None:
            return None
        _seeded += 1
        return (_seed + (_seeded - 1) * _SEED_STEP) % 2**31


def layer_type_list() -> list[str]:
    """The layer types that a prototxt can name, sorted."""
    return sorted(LAYER_TYPES)


def has_nccl() -> bool:
    """Whether several GPUs can train one net together."""
    return False


def solver_count() -> int:
    """How many processes train together, as `set_solver_count` said; 1 at first."""
    return _solvers["count"]


def set_solver_count(count: int) -> None:
    """Notes how many processes train together. Raises NetcError for less than one."""
    if count < 1:
        raise NetcError("the number of solvers must be 1 or more", found=count)
    _solvers["count"] = count


def solver_rank() -> int:
    """Which of the processes that train together this is, from 0."""
    return _solvers["rank"]


def set_solver_rank(rank: int) -> None:
    """Notes which of the processes that train together this is."""
    _solvers["rank"] = rank


def set_multiprocess(multiprocess: bool) -> None:
    """Without effect: every process has nets and solvers of its own."""


class NCCL:
    """Stands for pycaffe's class of the same name, which joins the GPUs of several processes."""

    def __init__(self, *arguments: object) -> None:
        """Raises NetcError: training on several GPUs is not there yet."""
        raise NetcError("netc cannot train on several GPUs from Python yet", remedy="train with one solver")

    @staticmethod
    def new_uid() -> str:
        """Raises NetcError, as making an NCCL does."""
        raise NetcError("netc cannot train on several GPUs from Python yet", remedy="train with one solver")
