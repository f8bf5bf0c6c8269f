"""Compiles loops for this processor; what is imported here is numba and needs its half a second."""

from __future__ import annotations

import logging
import platform
from importlib import import_module
from typing import Any, Final

from netc.backends.cpu.loops.image import Image
from netc.backends.cpu.loops.object_file import image_of

log = logging.getLogger(__name__)

MACHINES: Final = ("x86_64",)  # whose code can be made to lie anywhere and be kept without numba


def compile_loop(module: str, name: str, openmp: str) -> tuple[Any, Image | None]:
    """A loop of a module beside this one as numba's function, which has its `address`, and as an image.

    openmp: the library that loops ask which thread they run in. On machines for which no images are made
    there is none, and numba keeps the function in its own way. Raises ImportError without numba.
    """
    import llvmlite.binding
    import numba

    llvmlite.binding.load_library_permanently(openmp)
    loops = import_module(f"netc.backends.cpu.loops.{module}")
    kept = platform.machine() in MACHINES
    function = numba.cfunc(loops.SIGNATURE, cache=not kept, **loops.OPTIONS[name])(loops.LOOPS[name])
    if not kept:
        return function, None
    try:
        return function, image_of(_object(function.inspect_llvm()), function.native_name)
    except ValueError as error:
        log.debug("%s of %s is compiled anew each time: %s", name, module, error)
        return function, None


def _object(code: str) -> bytes:
    """The object file of LLVM's code, as numba has optimised it: made for this processor, to lie anywhere,
    as numba makes it for itself."""
    from llvmlite import binding

    target = binding.Target.from_default_triple()
    machine = target.create_target_machine(
        cpu=binding.get_host_cpu_name(),
        features=binding.get_host_cpu_features().flatten(),
        opt=3,
        reloc="static",
        codemodel="jitdefault",
        jit=True,
    )
    return bytes(machine.emit_object(binding.parse_assembly(code)))
