"""`netc device_query`: shows what is known of the GPUs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from netc.cli.command import Command
from netc.cli.flags import Flag, Flags, UsageError
from netc.errors import NetcError

if TYPE_CHECKING:
    from netc.tools.cuda_driver import Gpu

log = logging.getLogger(__name__)

FLAGS = (Flag("gpu", "string", "all", "The GPUs to show: ids separated by commas, or all.", metavar="ID,ID"),)


def run(flags: Flags) -> int:
    """Prints a block of figures for every GPU asked for."""
    from netc.tools.cuda_driver import gpus

    wanted = flags.gpu.strip() or "all"
    if wanted != "all" and not all(word.strip().isdigit() for word in wanted.split(",")):
        raise UsageError("flag -gpu cannot be read", expected="ids separated by commas, or all", found=wanted)
    log.info("Querying GPUs %s", wanted, extra={"source": "caffe.cpp:138"})
    found = gpus()
    numbers = [gpu.number for gpu in found] if wanted == "all" else [int(word) for word in wanted.split(",")]
    for number in numbers:
        if number >= len(found):
            raise NetcError(f"there is no GPU {number}", expected=f"0 to {len(found) - 1}", found=number)
        print("\n".join(f"{label + ':':32}{value}" for label, value in _figures(found[number])), end="\n\n")
    return 0


def _figures(gpu: Gpu) -> list[tuple[str, object]]:
    """Caffe's figures under Caffe's names."""
    facts = gpu.facts
    return [
        ("Device id", gpu.number),
        ("Major revision number", facts["major"]),
        ("Minor revision number", facts["minor"]),
        ("Name", gpu.name),
        ("Total global memory", gpu.memory),
        ("Total shared memory per block", facts["shared_memory_per_block"]),
        ("Total registers per block", facts["registers_per_block"]),
        ("Warp size", facts["warp_size"]),
        ("Maximum memory pitch", facts["memory_pitch"]),
        ("Maximum threads per block", facts["threads_per_block"]),
        ("Maximum dimension of block", ", ".join(str(facts[f"block_{axis}"]) for axis in "xyz")),
        ("Maximum dimension of grid", ", ".join(str(facts[f"grid_{axis}"]) for axis in "xyz")),
        ("Clock rate", facts["clock_khz"]),
        ("Total constant memory", facts["constant_memory"]),
        ("Texture alignment", facts["texture_alignment"]),
        ("Concurrent copy and execution", "Yes" if facts["copies_while_computing"] else "No"),
        ("Number of multiprocessors", facts["multiprocessors"]),
        ("Kernel execution timeout", "Yes" if facts["has_timeout"] else "No"),
    ]


COMMAND = Command(
    "device_query",
    "show what is known of the GPUs",
    run,
    FLAGS,
    examples=("netc device_query", "netc device_query -gpu 0,1"),
)
