"""NVIDIA's run-time compiler: kernels to cubins, with or without a GPU."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from netc.errors import NetcError

LIBRARY = re.compile(r"libnvrtc\.so\.(\d+)$")
INSTALLED = "libnvrtc.so"  # of a toolkit on the library path
REMEDY = "pip install 'netc[gate]', which brings the compiler as wheels"


@dataclass(frozen=True)
class Cubin:
    """Compiled code for one architecture, what the compiler said, and the kernels' mangled names by
    expression."""

    code: bytes
    log: str
    symbols: Mapping[str, str]


class Nvrtc:
    """The compiler, from the wheels of this Python installation or else from a toolkit on the library path.

    Raises NetcError where there is none.
    """

    def __init__(self) -> None:
        wheel = _newest_wheel()
        self.path = str(wheel or INSTALLED)
        if wheel:
            # The compiler opens this one by its bare name, which is found only if it is already loaded.
            for builtins in sorted(wheel.parent.glob("libnvrtc-builtins.so*")):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
        try:
            self._library = ctypes.CDLL(self.path)
        except OSError as error:
            raise NetcError(f"the CUDA run-time compiler cannot be loaded: {error}", remedy=REMEDY) from error
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p

    @property
    def version(self) -> str:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def architectures(self) -> list[int]:
        """The compute capabilities it compiles for, as 90 for sm_90, oldest first."""
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        found = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", found)
        return sorted(found)

    def compile(self, source: str, name: str, expressions: Sequence[str], options: Sequence[str]) -> Cubin:
        """Compiles kernels of a source text; `name` is the file's name in messages.

        Raises NetcError with the compiler's log where one of them does not compile.
        """
        program = ctypes.c_void_p()
        self._call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
        try:
            for expression in expressions:
                self._call("nvrtcAddNameExpression", program, expression.encode())
            flags = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            status = self._library.nvrtcCompileProgram(program, len(options), flags)
            log = self._text("nvrtcGetProgramLogSize", "nvrtcGetProgramLog", program).decode(errors="replace")
            log = log.rstrip("\0")
            if status:
                raise NetcError(f"nvrtc cannot compile {', '.join(expressions)}: {log.strip()}", at=name)
            symbols = {expression: self._symbol(program, expression) for expression in expressions}
            return Cubin(self._text("nvrtcGetCUBINSize", "nvrtcGetCUBIN", program), log, symbols)
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _symbol(self, program: ctypes.c_void_p, expression: str) -> str:
        symbol = ctypes.c_char_p()
        self._call("nvrtcGetLoweredName", program, expression.encode(), ctypes.byref(symbol))
        return (symbol.value or b"").decode()

    def _text(self, size_function: str, function: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(size_function, program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(function, program, buffer)
        return buffer.raw

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise NetcError(f"{function} failed: {self._library.nvrtcGetErrorString(status).decode()}")


def _newest_wheel() -> Path | None:
    """The compiler's library in the wheels, None where it is in none."""
    found = [
        (int(match[1]), path)
        for folder in _wheel_folders()
        for path in (folder / "lib").glob("libnvrtc.so.*")
        if (match := LIBRARY.search(path.name))
    ]
    return max(found)[1] if found else None


def _wheel_folders() -> Iterator[Path]:
    """nvidia/cu13 and its like (CUDA 13 wheels share one folder), then nvidia/cuda_nvrtc (CUDA 12)."""
    package = importlib.util.find_spec("nvidia")
    for place in package.submodule_search_locations or () if package else ():
        yield from sorted(path for path in Path(place).iterdir() if path.is_dir())
