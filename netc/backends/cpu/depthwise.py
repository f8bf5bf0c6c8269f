"""The gradient of 3 x 3 filters that see a channel each, channels last, by a loop of our own.

oneDNN's takes two to five times as long channels last as in blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from netc.backends.cpu.chain import in_sequence
from netc.backends.cpu.geometry import Geometry
from netc.backends.cpu.loops import bound, compiled, threads_for
from netc.backends.cpu.loops.depthwise_job import CELLS, JOB
from netc.backends.form import Run
from netc.layer import Array, Scratch

LANES = 8  # channels come in multiples of these


class DepthwiseFilters:
    """The gradient of the filters. adds: whether it is added to what is there.

    Raises ImportError without numba, OSError without OpenMP.
    """

    variant = "depthwise"

    def __init__(self, geometry: Geometry, *, adds: bool) -> None:
        self.loop = compiled("depthwise", "filters")
        self.adds = adds
        images, channels, height, width = geometry.bottom
        self.numbers = {"images": images, "channels": channels, "H": height, "W": width}
        self.numbers |= {"P": geometry.top[2], "Q": geometry.top[3], "stride": geometry.stride[0]}
        self.threads = threads_for(images * geometry.top[2])
        self.shape = (self.threads, CELLS, channels)
        self.workspace: Mapping[str, Scratch] = {
            "lines": Scratch(self.shape, np.float32),
            "sums": Scratch(self.shape, np.float64),
        }

    def bind(self, arrays: Mapping[str, Array], workspace: Mapping[str, Array]) -> Run:
        """What adds to the gradient, or writes it."""
        sums = workspace["sums"]
        images = {"bottom": arrays["bottom"], "top_grad": arrays["top gradient"]}
        run = bound(
            self.loop,
            JOB,
            self.threads,
            self.numbers,
            {**images, **{k: workspace[k] for k in self.workspace}},
        )
        target = arrays["weight gradient"].reshape(sums.shape[2], sums.shape[1])
        total = sums[0].T
        parts: list[Run] = [partial(sums.fill, 0), run]
        parts += [partial(np.add, sums[0], part, out=sums[0]) for part in sums[1:]]
        if self.adds:
            parts.append(partial(np.add, total, target, out=total))
        return in_sequence([*parts, partial(np.copyto, target, total, casting="same_kind")])


def depthwise_fits(geometry: Geometry, wanted: tuple[bool, bool]) -> bool:
    """Whether the loop does what is wanted of filters and bias."""
    if len(geometry.weight) != 5 or len(geometry.bottom) != 4:
        return False
    single = geometry.weight[1:] == (1, 1, 3, 3) and geometry.bottom[1] % LANES == 0
    alike = geometry.stride in ((1, 1), (2, 2)) and geometry.before == (1, 1) and not any(geometry.gaps)
    return single and alike and geometry.bottom[3] > 1 and wanted == (True, False)
