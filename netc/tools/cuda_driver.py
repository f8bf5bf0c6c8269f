"""What NVIDIA's driver knows of the GPUs, asked of its library directly: nothing need be installed for it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any, Final

from netc.errors import NetcError

LIBRARIES: Final = ("libcuda.so.1", "libcuda.so", "nvcuda.dll")
NAME_LENGTH: Final = 256
NO_DEVICE: Final = 100  # CUDA_ERROR_NO_DEVICE
# CUdevice_attribute, from cuda.h.
ATTRIBUTES: Final = {
    "threads_per_block": 1,
    "block_x": 2,
    "block_y": 3,
    "block_z": 4,
    "grid_x": 5,
    "grid_y": 6,
    "grid_z": 7,
    "shared_memory_per_block": 8,
    "constant_memory": 9,
    "warp_size": 10,
    "memory_pitch": 11,
    "registers_per_block": 12,
    "clock_khz": 13,
    "texture_alignment": 14,
    "copies_while_computing": 15,
    "multiprocessors": 16,
    "has_timeout": 17,
    "major": 75,
    "minor": 76,
}


@dataclass(frozen=True)
class Gpu:
    """One GPU; `facts` by the names of `ATTRIBUTES`."""

    number: int
    name: str
    memory: int
    facts: dict[str, int] = field(default_factory=dict)


def gpus() -> list[Gpu]:
    """All GPUs that this process may use. Raises NetcError where there is no driver, or no GPU."""
    driver = _driver()
    count = ctypes.c_int()
    code = driver.cuInit(0)
    if code == NO_DEVICE:
        raise NetcError("there is no NVIDIA GPU in this machine, or none that this process may use")
    _check(driver, code)
    _check(driver, driver.cuDeviceGetCount(ctypes.byref(count)))
    return [_gpu(driver, number) for number in range(count.value)]


def _driver() -> Any:
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise NetcError(
        "there is no NVIDIA driver on this machine",
        expected=f"the library {LIBRARIES[0]}",
        remedy="install the driver if there is a GPU; netc computes on the CPU without one",
    )


def _gpu(driver: Any, number: int) -> Gpu:
    device = ctypes.c_int()
    _check(driver, driver.cuDeviceGet(ctypes.byref(device), number))
    name = ctypes.create_string_buffer(NAME_LENGTH)
    _check(driver, driver.cuDeviceGetName(name, NAME_LENGTH, device))
    memory = ctypes.c_size_t()
    _check(driver, driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
    facts = {}
    for fact, attribute in ATTRIBUTES.items():
        value = ctypes.c_int()
        _check(driver, driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
        facts[fact] = value.value
    return Gpu(number, name.value.decode("utf-8", "replace"), memory.value, facts)


def _check(driver: Any, code: int) -> None:
    if code == 0:
        return
    text = ctypes.c_char_p()
    driver.cuGetErrorString(code, ctypes.byref(text))
    said = text.value.decode() if text.value else f"error {code}"
    raise NetcError(f"the NVIDIA driver does not answer: {said}", remedy="see what nvidia-smi says")
