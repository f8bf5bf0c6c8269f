"""Kernels compiled for a GPU, in a cache of cubins."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from netc.backends.cache_folder import cache_folder
from netc.backends.cuda.compilation.elf import FUNCTION, LOCAL, Elf
from netc.backends.cuda.compilation.kernel import Variant
from netc.backends.cuda.compilation.nvrtc import Cubin, Nvrtc
from netc.backends.cuda.compilation.sources import read_source, source_digest
from netc.errors import NetcError
from netc.kernels_folder import kernels_folder
from netc.schema.atomic import replacing

log = logging.getLogger(__name__)

# A kernel's lambdas have no word that says where they run; without the second option that is the host.
OPTIONS = ("-std=c++17", "-default-device")


def compile_variants(
    compiler: Nvrtc, variants: Sequence[Variant], architecture: str, more_options: Sequence[str] = ()
) -> Cubin:
    """Compiles variants of one file with the same defines together: the file is then read and parsed once.

    architecture: as "90" or "90a". Raises NetcError with the compiler's message.
    """
    first = variants[0]
    if any((v.path, v.defines) != (first.path, first.defines) for v in variants):
        raise ValueError("variants of several files or defines cannot be compiled together")
    options = [
        f"-arch=sm_{architecture}",
        *OPTIONS,
        f"-I{kernels_folder()}",
        *(f"-D{define}" for define in first.defines),
        *more_options,
    ]
    expressions = [variant.expression for variant in variants]
    return compiler.compile(read_source(first.path), first.file, expressions, options)


def build_cubin(compiler: Nvrtc, variant: Variant, architecture: str) -> Path:
    """The cubin of a variant: from the cache, or compiled into it."""
    what = (OPTIONS, variant.expression, variant.defines, architecture, compiler.version)
    key = source_digest(variant.path, (kernels_folder(),), *what)
    path = cache_folder("cubin") / f"{Path(variant.file).stem}-sm_{architecture}-{key}.cubin"
    if not path.exists():
        log.info("compiling %s for sm_%s", variant.name, architecture)
        with replacing(path) as temporary:
            temporary.write_bytes(compile_variants(compiler, [variant], architecture).code)
    return path


def kernel_symbol(path: Path, expression: str) -> str:
    """The name in a cubin of the kernel that `expression` names in C++: as it stands there, or mangled.

    Beside it the cubin holds all kernels of its source that are no templates. Raises NetcError where there is
    none, or several.
    """
    name = expression.split("<")[0].strip()
    symbols = Elf(path).symbols  # the local ones are the compiler's own, such as divisions
    kernels = [symbol.name for symbol in symbols if symbol.type == FUNCTION and symbol.binding != LOCAL]
    found = [kernel for kernel in kernels if kernel == name or kernel.startswith(f"_Z{len(name)}{name}")]
    if len(found) != 1:
        raise NetcError(
            "a cubin does not hold its kernel once", at=str(path), expected=name, found=", ".join(kernels)
        )
    return found[0]
