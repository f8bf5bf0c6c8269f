"""The emulator's runtime library (csrc/), as Python calls it."""

from __future__ import annotations

import ctypes
import functools
import threading

from netc.backends.cuda.emulator.compiler import build_runtime

# One launch at a time: the runtime has one set of fibers. Whoever calls it holds this.
LOCK = threading.RLock()

SHARED = -1  # in place of a device's number, for shared memory
ORDERS = {"forward": 0, "backward": 1, "random": 2}


class Index(ctypes.Structure):
    """EmuIndex of csrc/runtime.h."""

    _fields_ = [("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint)]

    def __str__(self) -> str:
        return f"({self.x}, {self.y}, {self.z})"


class Report(ctypes.Structure):
    """EmuReport of csrc/internal.h."""

    _fields_ = [
        ("kind", ctypes.c_char * 32),
        ("text", ctypes.c_char * 480),
        ("site", ctypes.c_uint64),
        ("earlier_site", ctypes.c_uint64),
        ("file", ctypes.c_char * 256),
        ("line", ctypes.c_uint32),
        ("thread", ctypes.c_uint32),
        ("block", Index),
        ("times", ctypes.c_uint32),
    ]


class Shared(ctypes.Structure):
    """EmuShared of csrc/launch.cpp."""

    _fields_ = [("begin", ctypes.c_size_t), ("bytes", ctypes.c_size_t)]


class Launch(ctypes.Structure):
    """EmuLaunch of csrc/launch.cpp."""

    _fields_ = [
        ("entry", ctypes.c_void_p),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("grid", Index),
        ("block", Index),
        ("dynamic_bytes", ctypes.c_size_t),
        ("shared", ctypes.POINTER(Shared)),
        ("shared_count", ctypes.c_uint),
        ("check", ctypes.c_int),
        ("order", ctypes.c_int),
        ("seed", ctypes.c_uint),
    ]


SIGNATURES = {
    "emu_launch": (ctypes.c_uint, [ctypes.POINTER(Launch)]),
    "emu_report": (ctypes.POINTER(Report), [ctypes.c_uint]),
    "emu_add_region": (None, [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_char_p]),
    "emu_region_count": (ctypes.c_uint, []),
    "emu_remove_region": (None, [ctypes.c_size_t]),
    "emu_mark_freed": (None, [ctypes.c_size_t]),
    "emu_mark_defined": (None, [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]),
    "emu_copy_defined": (None, [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t]),
    "emu_allow": (None, [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_char_p]),
    "emu_allow_constants": (None, [ctypes.c_size_t, ctypes.c_size_t]),
    "emu_first_undefined": (ctypes.c_size_t, [ctypes.c_size_t, ctypes.c_size_t]),
    "emu_set_place": (None, [ctypes.c_int, ctypes.c_size_t]),
    "emu_forget_allowed": (None, []),
}


@functools.cache
def runtime() -> ctypes.CDLL:
    """The loaded runtime. Raises NetcError where it cannot be built."""
    # Global: kernels' libraries find in it what they call.
    library = ctypes.CDLL(str(build_runtime()), mode=ctypes.RTLD_GLOBAL)
    for name, (result, parameters) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, parameters
    return library
