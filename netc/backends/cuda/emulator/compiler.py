"""Compiles kernels and the emulator's runtime with g++ into a cache of shared libraries."""

from __future__ import annotations

import functools
import logging
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from netc.backends.cache_folder import cache_folder
from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.compilation.sources import digest, included_files, source_digest
from netc.cores import cores_allowed
from netc.errors import Location, NetcError
from netc.kernels_folder import kernels_folder
from netc.schema.atomic import replacing

log = logging.getLogger(__name__)

CSRC = Path(__file__).resolve().parent / "csrc"
STANDARD = ("-std=c++17", "-fPIC")
RUNTIME_FLAGS = (*STANDARD, "-O2", "-Wall", "-Wextra")
KERNEL_FLAGS = (
    *STANDARD,
    "-w",  # CUDA's pragmas and attributes; the gate's compiler gives the warnings
    # A kernel's shared variables belong to its library alone.
    "-fno-gnu-unique",
    "-fvisibility=hidden",
    "-Werror=frame-larger-than=32768",  # a fiber's stack has 64 KB
)
MODE_FLAGS = {
    False: ("-O2",),
    True: (
        "-O1",
        "-g",
        "-DEMU_CHECK_MODE",
        "-fsanitize=thread,undefined,float-cast-overflow",
        "-fno-sanitize=vptr,null,object-size",
        "--param=tsan-instrument-func-entry-exit=0",
        "-fno-toplevel-reorder",  # red zones stay where they were written
        "-ftrivial-auto-var-init=pattern",  # an unset local variable is a NaN, not what the stack held
    ),
}
FIRST_ERROR = re.compile(
    r"^(?P<file>[^:\n]+):(?P<line>\d+):\d+: (?:fatal )?error: (?P<text>.*)$", re.MULTILINE
)


def why_unavailable() -> str | None:
    """Why the emulator cannot run on this machine; None where it can."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return f"the emulator runs on x86-64 Linux, not on {platform.machine()} {platform.system()}"
    if shutil.which("g++") is None:
        return "the emulator needs g++, which is not on the path"
    return None


def build_runtime() -> Path:
    """The emulator's runtime as a shared library."""
    parts = sorted(CSRC.glob("*.cpp"))
    key = digest(*(source_digest(path, (), RUNTIME_FLAGS, _compiler()) for path in parts))
    with _missing("runtime", key) as (library, target):
        if target:
            _link_runtime(parts, target)
    return library


def _link_runtime(parts: Sequence[Path], target: Path) -> None:
    """Compiles the parts at the same time, and links them."""
    what = "the emulator's runtime"
    unlinked = [target.with_suffix(f".{part.stem}.o") for part in parts]
    try:
        with ThreadPoolExecutor(cores_allowed()) as pool:
            commands = [
                [*RUNTIME_FLAGS, "-c", str(p), "-o", str(o)] for p, o in zip(parts, unlinked, strict=True)
            ]
            list(pool.map(lambda command: _run(what, command), commands))
        _run(what, ["-shared", *map(str, unlinked), "-o", str(target)])
    finally:
        for file in unlinked:
            file.unlink(missing_ok=True)


def build_kernel(variant: Variant, check: bool) -> Path:
    """A kernel as a shared library whose `emu_entry` calls it.

    Raises NetcError, with the place and the text of the compiler's first error, where it does not compile.
    """
    folders = (kernels_folder(), CSRC)
    flags = [*KERNEL_FLAGS, *MODE_FLAGS[check], *_processor(), *(f"-D{define}" for define in variant.defines)]
    entry = (
        f'#include "{variant.path.resolve()}"\n#include "entry.h"\nEMU_KERNEL_ENTRY({variant.expression})\n'
    )
    entry_texts = included_files(CSRC / "entry.h", ()).values()
    key = source_digest(variant.path, folders, flags, entry, sorted(entry_texts), _compiler())
    mode = "check" if check else "fast"
    with _missing(f"{Path(variant.file).stem}-{mode}", key) as (library, target):
        if target:
            # Linked without the sanitizers' flags: the emulator's runtime takes the place of theirs.
            unlinked = target.with_suffix(".o")
            includes = [f"-I{folder}" for folder in folders]
            try:
                _run(variant.name, [*flags, *includes, "-x", "c++", "-", "-c", "-o", str(unlinked)], entry)
                _run(variant.name, ["-shared", "-o", str(target), str(unlinked)])
            finally:
                unlinked.unlink(missing_ok=True)
    return library


@contextmanager
def _missing(stem: str, key: str) -> Iterator[tuple[Path, Path | None]]:
    """The library of this content in the cache, and where to write it: None where it is there already."""
    reason = why_unavailable()
    if reason:
        raise NetcError(reason, remedy="install g++, or run on a GPU or the CPU")
    library = cache_folder("emulator") / f"{stem}-{key}.so"
    if library.exists():
        yield library, None
        return
    log.info("compiling %s for the emulator", stem)
    with replacing(library) as temporary:
        yield library, temporary


def _run(what: str, arguments: Sequence[str], text: str = "") -> None:
    command = ["g++", *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise _compile_error(what, done.stderr)


def _compile_error(what: str, output: str) -> NetcError:
    first = FIRST_ERROR.search(output)
    if first is None:
        return NetcError(f"g++ cannot compile {what}: {output.strip()[-2000:]}")
    at = Location(first["file"], int(first["line"]))
    return NetcError(f"g++ cannot compile {what}: {first['text']}", at=at)


@functools.cache
def _compiler() -> str:
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=False).stdout


@functools.cache
def _processor() -> tuple[str, ...]:
    """Instructions of this processor that make fast mode faster; another machine may share the cache."""
    try:
        features = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return ()
    return ("-march=x86-64-v3",) if {"avx2", "fma", "bmi2", "movbe", "f16c"} <= features else ()
