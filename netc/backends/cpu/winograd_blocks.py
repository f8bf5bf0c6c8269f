"""Blocks of tiles that go through Winograd's convolution: their numbers for the loops, and their memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from netc.backends.cpu.loops import Loop, bound, compiled, threads_for
from netc.backends.cpu.loops.winograd_job import JOB, SCRATCH
from netc.backends.cpu.winograd_task import POINTS, Task
from netc.backends.form import Run
from netc.layer import Array, Scratch, Shape

ALIGNMENT: Final = 64  # bytes: a thread's part of a workspace begins at a cache line


def loops_of(names: Sequence[str]) -> dict[str, Loop]:
    """Winograd's loops by name. Raises ImportError without numba, OSError without OpenMP."""
    return {name: compiled("winograd", name) for name in names}


def run_of(
    loop: Loop, numbers: Mapping[str, Any], arrays: Mapping[str, Array], *, alone: bool = False
) -> Run:
    """A loop's run by the team; alone: by one thread of it."""
    threads = 1 if alone else threads_for(numbers["count"])
    return bound(loop, JOB, threads, {**numbers, "alone": int(alone)}, arrays)


def shares_of(workspace: Mapping[str, Scratch], shares: int) -> dict[str, Scratch]:
    """The workspace of so many threads, each with its own."""
    return {name: Scratch((shares * _filled(scratch),), scratch.dtype) for name, scratch in workspace.items()}


def share_of(arrays: Mapping[str, Array], workspace: Mapping[str, Scratch], share: int) -> dict[str, Array]:
    """One thread's part of what `shares_of` has asked for."""
    parts = {name: (share * _filled(scratch), scratch.shape[0]) for name, scratch in workspace.items()}
    return {name: arrays[name][first : first + size] for name, (first, size) in parts.items()}


def _filled(scratch: Scratch) -> int:
    """The elements from one thread's part to the next."""
    line = ALIGNMENT // np.dtype(scratch.dtype).itemsize
    return -(-scratch.shape[0] // line) * line


def image_numbers(task: Task, block: tuple[int, int], rows: int, row: int = 0) -> dict[str, int]:
    """What a loop over the image's tiles goes by; rows: of the block's points; row: the floats from one to
    the next, the channels if 0."""
    numbers = dict(zip(("top", "left"), task.padding, strict=True))
    return {**numbers, **_block_numbers(task, block, rows, row or task.inputs, task.image, task.inputs)}


def result_numbers(task: Task, block: tuple[int, int], rows: int, row: int = 0) -> dict[str, int]:
    """What a loop over the result's tiles goes by."""
    return _block_numbers(task, block, rows, row or task.outputs, task.result, task.outputs)


def _block_numbers(
    task: Task, block: tuple[int, int], rows: int, row: int, image: Shape, channels: int
) -> dict[str, int]:
    return {
        "size": task.cells,
        "first": block[0],
        "count": block[1],
        "down": task.down,
        "across": task.across,
        "height": image[1],
        "width": image[2],
        "pixel": task.groups * channels,
        "plane": rows * row,
        "row": row,
        "channels": channels,
    }


def loop_scratch(task: Task) -> Scratch:
    """What the loops' threads work in."""
    most = max(task.tiles, task.inputs * task.outputs)
    return Scratch((threads_for(most) * SCRATCH,), np.float32)


def matrices(array: Array, rows: int, columns: int) -> Array:
    """A matrix for each point, at the beginning of an array."""
    return array[: POINTS * rows * columns].reshape(POINTS, rows, columns)


def group_of(array: Array, group: int, channels: int) -> Array:
    """The channels of one group."""
    mine = slice(group * channels, (group + 1) * channels)
    return array[mine] if array.ndim == 1 else array[:, mine]
