"""What a launch must keep to on every device: its limits, and the types of its arguments."""

from __future__ import annotations

import numpy as np

from netc.backends.cuda.compilation import Kernel
from netc.backends.cuda.device.properties import DeviceProperties, Grid
from netc.errors import NetcError


def check_exact_type(kernel: Kernel, position: int, argument: object) -> None:
    """Raises NetcError where an argument that is no memory has no exact type."""
    if argument is not None and not isinstance(argument, np.generic):
        raise NetcError(
            f"kernel {kernel.name}: argument {position} has no exact type",
            expected="memory, a numpy scalar such as np.int32(1), or None",
            found=type(argument).__name__,
        )


def check_limits(
    limits: DeviceProperties, kernel: Kernel, grid: Grid, block: Grid, shared_bytes: int
) -> None:
    """Raises NetcError where a launch passes a limit of its device."""
    threads = block[0] * block[1] * block[2]
    rules = (
        ("threads in a block", threads, min(limits.threads, kernel.variant.threads), 1),
        ("bytes of dynamic shared memory", shared_bytes, limits.shared_bytes, 0),
        *(
            ("threads along an axis of a block", n, most, 1)
            for n, most in zip(block, limits.block, strict=True)
        ),
        *(
            ("blocks along an axis of the grid", n, most, 1)
            for n, most in zip(grid, limits.grid, strict=True)
        ),
    )
    for what, found, most, least in rules:
        if not least <= found <= most:
            raise NetcError(
                f"kernel {kernel.name} cannot be launched: the number of {what} is out of bounds",
                expected=f"{least} to {most:,}",
                found=f"{found:,} (grid {grid}, block {block})",
            )
    if not kernel.variant.runs_on(limits.architecture):
        raise NetcError(
            f"kernel {kernel.name} cannot run on {limits.name}",
            expected=f"compute capability {kernel.variant.architecture / 10}"
            + ("" if kernel.variant.specific else " or newer"),
            found=str(limits.architecture / 10),
        )
