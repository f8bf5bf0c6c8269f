"""Flags of the commands that run a net, and what is checked before one is built."""

from __future__ import annotations

import logging
import os
from typing import Final

from netc.cli.flags import Flag, Flags, UsageError
from netc.errors import NetcError

log = logging.getLogger(__name__)

MODEL: Final = "The net's definition, a prototxt."
NET_FLAGS: Final = (
    Flag("level", "int", 0, "The net's level, which include and exclude rules ask for."),
    Flag("stage", "list", [], "The net's stages (not its phase), separated by commas."),
    Flag(
        "gpu", "string", "", "The GPU to run on. This version of netc computes on the CPU only.", metavar="ID"
    ),
    Flag("threads", "int", 0, "Threads that compute; 0: all cores but one, which reads data.", metavar="N"),
)
THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def require(flags: Flags, name: str, remedy: str) -> str:
    """The value of a flag that a command cannot do without. Raises UsageError."""
    value: str = getattr(flags, name)
    if not value:
        raise UsageError(f"flag -{name} is missing", remedy=remedy)
    return value


def choose_device(flags: Flags, source: str) -> None:
    """Logs where the net will run. Raises NetcError where -gpu asks for what there is not."""
    wanted = flags.gpu.strip()
    if wanted:
        several = wanted == "all" or "," in wanted
        what = "computing on several GPUs is not there yet" if several else "there is no GPU backend yet"
        raise NetcError(what, found=f"-gpu {wanted}", remedy="leave out -gpu to use the CPU")
    log.info("Use CPU.", extra={"source": source})


def limit_threads(flags: Flags) -> None:
    """Hands -threads to the libraries that compute; call it before they are loaded, when they read it.

    Without the flag, what the environment says stands. Without that, one core is left to the threads that
    read data: matrix products that wait for a core which others keep busy become many times slower than on
    one core less.
    """
    if flags.threads < 0:
        raise UsageError("flag -threads is negative", expected="0 or more", found=flags.threads)
    if flags.threads:
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(flags.threads)))
    elif not any(os.environ.get(variable) for variable in THREAD_VARIABLES):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(max(1, cores - 1))))
