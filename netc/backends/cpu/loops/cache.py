"""Loops as machine code in the user's cache folder: found there without numba, else compiled."""

from __future__ import annotations

import ctypes
import hashlib
import logging
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from netc.backends.cache_folder import cache_folder
from netc.backends.cpu.loops.image import Image, MappedImage, unpacked
from netc.backends.cpu.loops.processor import processor
from netc.errors import NetcError
from netc.schema.atomic import replacing

CACHE: Final = "cpu-loops"
COMPILERS: Final = "numba", "llvmlite"
MATHEMATICS: Final = "libm.so.6"
# What numba's functions call once they have raised an error. Ours raise none; one that did would end here.
ERRORS: Final = "Py", "NRT_", "numba_", "_ZN08NumbaEnv"
END: Final = "abort"

log = logging.getLogger(__name__)


def loop_code(module: str, name: str, openmp: str) -> Any:
    """A loop's machine code, which has its `address` and lives as long as this object.

    openmp: the library that loops ask which thread they run in.
    Raises ImportError where numba is not installed, whether it is needed or not.
    """
    if find_spec("numba") is None:
        raise ImportError("No module named 'numba'")
    folder = cache_folder(f"{CACHE}-{version()}")
    path = folder / f"{module}.{name}"
    found = _mapped(_read(path), openmp)
    if found is not None:
        return found
    from netc.backends.cpu.loops.compiler import compile_loop

    _say_once_that_loops_are_compiled(str(folder))
    function, image = compile_loop(module, name, openmp)
    found = _mapped(image, openmp)
    if image is None or found is None:
        return function
    _write(path, image)
    return found


@lru_cache(None)
def version() -> str:
    """Of all that machine code hangs on: the loops' sources, their compiler, the processor."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    facts = [f"{name} {metadata.version(name)}" for name in COMPILERS]
    digest.update("\n".join([*facts, processor()]).encode())
    return digest.hexdigest()[:16]


@lru_cache(None)
def _say_once_that_loops_are_compiled(folder: str) -> None:
    log.info("Compiling loops for this processor, some seconds each; they are kept in %s", folder)


def _read(path: Path) -> Image | None:
    """The image in a file; None where there is none that is whole."""
    try:
        return unpacked(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s is ignored: %s", path, error)
        return None


def _write(path: Path, image: Image) -> None:
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(image.packed())
    except NetcError as error:
        log.warning("a compiled loop is not kept: %s", error)


def _mapped(image: Image | None, openmp: str) -> MappedImage | None:
    """An image, ready to be run; None where it refers to what this process lacks, or the system runs no code
    from memory."""
    if image is None:
        return None
    try:
        return MappedImage(image, lambda symbol: _address(symbol, openmp))
    except (LookupError, OSError) as error:
        log.debug("%s", error)
        return None


def _address(symbol: str, openmp: str) -> int:
    """Of a function that loops call. Raises LookupError where no library has it."""
    wanted = END if symbol.startswith(ERRORS) else symbol
    for library in (openmp, None, MATHEMATICS):  # None: what the process has loaded
        if function := getattr(ctypes.CDLL(library), wanted, None):
            return ctypes.cast(function, ctypes.c_void_p).value or 0
    raise LookupError(f"no library has {symbol}")
