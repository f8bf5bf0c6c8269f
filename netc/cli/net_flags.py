"""Flags of the commands that run a net, and what is checked before one is built."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from netc.cli.flags import Flag, Flags, UsageError
from netc.cores import THREAD_VARIABLES, cores_allowed

if TYPE_CHECKING:
    from netc.backends.backend import Backend

log = logging.getLogger(__name__)

MODEL: Final = "The net's definition, a prototxt."
LEVEL_FLAGS: Final = (
    Flag("level", "int", 0, "The net's level, which include and exclude rules ask for."),
    Flag("stage", "list", [], "The net's stages (not its phase), separated by commas."),
)
PHASE_FLAG: Final = Flag("phase", "string", "TEST", "The net's phase.", choices=("TRAIN", "TEST"))
SHAPE_FLAG: Final = Flag(
    "shape",
    "string",
    "",
    "Shapes of inputs, in place of those that the prototxt or the data give.",
    metavar="BLOB:N,C,H,W[;...]",
)
NET_FLAGS: Final = (
    *LEVEL_FLAGS,
    Flag("gpu", "string", "", "The GPU to run on, or emulated: its kernels on the CPU.", metavar="ID"),
    Flag(
        "math",
        "string",
        "fp32",
        "What products are computed in: on the CPU fp32 or bf16, on a GPU any.",
        choices=("fp32", "tf32", "bf16", "fp16"),
    ),
    Flag("deterministic", "bool", False, "Give the same bits in every run, where that costs speed."),
    Flag("threads", "int", 0, "Threads that compute; 0: as many as there are cores to use.", metavar="N"),
)

MEMORY_FLAG: Final = Flag(
    "memory_limit",
    "size",
    None,
    "The most memory for blobs, their gradients and workspaces; what backward finds no longer there is "
    "computed again. Parameters, their gradients and the solver's history come on top.",
)


def require(flags: Flags, name: str, remedy: str) -> str:
    """The value of a flag that a command cannot do without. Raises UsageError."""
    value: str = getattr(flags, name)
    if not value:
        raise UsageError(f"flag -{name} is missing", remedy=remedy)
    return value


def read_shapes(text: str) -> dict[str, tuple[int, ...]]:
    """The shapes that -shape gives, by blob name: `data:1,3,224,224;rois:10,5`. Raises UsageError."""
    shapes = {}
    for part in filter(None, text.split(";")):
        blob, colon, sizes = part.partition(":")
        words = sizes.replace("x", ",").split(",")
        if not (blob.strip() and colon and all(word.strip().isdigit() and int(word) for word in words)):
            raise UsageError("flag -shape cannot be read", expected="data:1,3,224,224", found=repr(part))
        shapes[blob.strip()] = tuple(int(word) for word in words)
    return shapes


def choose_device(flags: Flags, source: str = "", default: str = "") -> Backend:
    """Where the net will run, which the log says; default: the GPU to take without -gpu.

    Raises NetcError where -gpu asks for what there is not.
    """
    from netc.backends.open import open_backend

    gpu = flags.gpu.strip() or default
    backend = open_backend(
        gpu, math=flags.math, deterministic=flags.deterministic, memory_limit=flags.values.get("memory_limit")
    )
    if gpu:
        log.info("Using GPUs %s (%s)", gpu, backend.name, extra={"source": source})
    else:
        log.info("Use CPU.", extra={"source": source})
    return backend


def limit_threads(flags: Flags) -> None:
    """Hands -threads to the libraries that compute; call it before they are loaded, when they read it.

    Without the flag, what the environment says stands. Without that, oneDNN computes on every core that this
    process may use, and NumPy's matrix products, which take over where it is missing, on one less: where
    threads that read data keep a core busy, those products become many times slower than on the other cores.
    """
    if flags.threads < 0:
        raise UsageError("flag -threads is negative", expected="0 or more", found=flags.threads)
    if flags.threads:
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(flags.threads)))
    elif not any(os.environ.get(variable) for variable in THREAD_VARIABLES):
        cores = cores_allowed()
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(max(1, cores - 1))))
        os.environ["OMP_NUM_THREADS"] = str(cores)
    os.environ.pop("OMP_DYNAMIC", None)  # oneDNN hangs where OpenMP gives it fewer threads than it counted on
    # Images are decoded in threads of netc's own; OpenCV's would only take turns with them.
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
