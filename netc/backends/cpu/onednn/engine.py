"""One open oneDNN: its functions, its engine and its stream."""

from __future__ import annotations

import ctypes
import logging
from ctypes import c_void_p
from functools import cached_property, lru_cache
from typing import Any, Final

from netc.backends.cpu import threads
from netc.backends.cpu.onednn import kinds, library
from netc.backends.cpu.onednn.functions import Functions
from netc.errors import NetcError

log = logging.getLogger(__name__)

AVX512: Final = 0x20  # the bit of an instruction set that has vectors of 16 floats
LAST_TAG: Final = 4096


class Engine:
    """The processor as oneDNN sees it. Primitives of one engine run in the order they are called in."""

    def __init__(self, shared_library: ctypes.CDLL) -> None:
        threads.forbid_changing_teams()
        self.functions = Functions(shared_library)
        self.handle: c_void_p = self.functions.create("engine_create", kinds.CPU, 0)
        self.stream: c_void_p = self.functions.create("stream_create", self.handle, kinds.IN_ORDER)
        self._tags: dict[str, int] = {}

    @cached_property
    def block(self) -> int:
        """Channels that lie side by side in the blocked layout: one vector of floats."""
        return 16 if self.functions["get_effective_cpu_isa"]() & AVX512 else 8

    def tag(self, name: str) -> int:
        """The number of a layout by its name, such as aBcd8b. Raises NetcError where there is none."""
        if name not in self._tags:
            named = self.functions["fmt_tag2str"]
            found = next((tag for tag in range(LAST_TAG) if named(tag) == name.encode()), None)
            if found is None:
                raise NetcError(f"oneDNN knows no layout {name}")
            self._tags[name] = found
        return self._tags[name]


class Handle:
    """Something that the library made, destroyed together with this object. Functions take it as it is."""

    __slots__ = ("_as_parameter_", "_destroy", "engine")

    def __init__(self, engine: Engine, made: c_void_p, destroy: str) -> None:
        self.engine = engine
        self._as_parameter_ = made
        self._destroy: Any = engine.functions[destroy]

    @property
    def address(self) -> int:
        return self._as_parameter_.value or 0

    def __del__(self) -> None:
        if hasattr(self, "_destroy"):  # else nothing was made
            self._destroy(self._as_parameter_)


@lru_cache(maxsize=1)
def open_engine() -> Engine | None:
    """The process's engine; None, said once with what would help, where oneDNN is not there.

    Raises NetcError where the environment names a library that cannot be used.
    """
    found = library.find()
    if found is not None:
        return Engine(found)
    if library.named_by_user() is None:
        log.warning(
            "oneDNN is not installed: layers compute with NumPy, several times slower; pip install %s",
            library.WHEEL,
        )
    return None
