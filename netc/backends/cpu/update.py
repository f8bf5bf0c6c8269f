"""The parameters' update on the CPU: one pass over flat arrays, compiled by numba, shared out by OpenMP."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np

from netc.backends.clipping import clip_scale
from netc.backends.cpu.loops import compiled, threads_for
from netc.backends.cpu.loops.update_job import JOB, ROW
from netc.backends.update_spec import UpdateSpec

log = logging.getLogger(__name__)

SMALLEST = 1 << 17  # elements; fewer never make good what compiling the loops takes
CHUNK = 1 << 14  # elements of a row: what threads share out
THREAD_ELEMENTS = 1 << 16  # what a further thread must have to do to be worth its start


class FusedUpdate:
    """Clips, divides by iter_size, regularises, applies the rule and subtracts, in one pass.

    Gives the bits of netc/solver/update.py for any number of threads; only the norm for clipping is summed in
    another order (also the same for any number).
    """

    capturable = False

    def __init__(
        self, spec: UpdateSpec, data: np.ndarray, grad: np.ndarray, history: Sequence[np.ndarray]
    ) -> None:
        """Compiles the loops. Raises ImportError without numba, OSError without OpenMP."""
        self._spec = spec
        self._loop = compiled("update", spec.type)
        self._square_sums = compiled("update", "square_sums") if spec.clip >= 0 else None
        self._rows = rows_of(spec)
        most = -(-int(self._rows["count"].sum()) // THREAD_ELEMENTS)
        self._threads = threads_for(most)
        self._sums = np.zeros(len(self._rows))
        self._arrays = (data, grad, *history)  # the job has their addresses
        first, second = (*history, history[0])[:2]
        values = {
            "row_count": len(self._rows),
            "l1": spec.l1,
            "momentum": spec.momentum,
            "momentum2": spec.momentum2,
            "delta": spec.delta,
            "lookahead": 1 + spec.momentum,
            "new": 1 - spec.momentum,
            "new2": 1 - spec.momentum2,
        }
        pointed = {"data": data, "grad": grad, "first": first, "second": second}
        pointed.update(rows=self._rows, sums=self._sums)
        self._job = np.zeros(1, JOB)
        for name, value in values.items():
            self._job[name] = value
        for name, array in pointed.items():
            self._job[name] = array.ctypes.data

    def prepare(self, iteration: int, rate: float) -> None:
        """Sets what the next update reads. iteration: the number of updates made before; rate: the learning
        rate."""
        job, spec = self._job, self._spec
        job["rate"] = rate
        job["correction"] = adams_correction(spec, iteration) if spec.type == "Adam" else 1.0

    def run(self) -> None:
        """One update."""
        job, spec = self._job, self._spec
        scale = 1.0
        if self._square_sums is not None:
            self._square_sums(job, self._threads)
            scale = clip_scale(math.sqrt(self._sums.sum()), spec.clip)
        job["scale"] = scale / spec.iter_size
        self._loop(job, self._threads)

    def outcome(self) -> bool:
        """True: what it is given has not been scaled."""
        return True


def make_update(
    spec: UpdateSpec, data: np.ndarray, grad: np.ndarray, history: Sequence[np.ndarray]
) -> FusedUpdate | None:
    """The update of these flat arrays; None where NumPy has to do it: they are not float32 or too small, or
    numba or OpenMP are missing or fail."""
    if data.dtype != np.float32 or sum(count for _, count, _, _ in spec.runs) < SMALLEST:
        return None
    try:
        return FusedUpdate(spec, data, grad, history)
    except (ImportError, OSError) as error:
        log.info("The update of the parameters would be faster with numba (pip install netc[cpu]): %s", error)
    except Exception as error:  # whatever compiling, or what an earlier version has cached, may raise
        log.warning("NumPy updates the parameters, since numba failed: %s: %s", type(error).__name__, error)
    return None


def rows_of(spec: UpdateSpec) -> np.ndarray:
    """The runs, cut into chunks, as the loops read them."""
    rows = [
        (start + done, min(CHUNK, count - done), lr_mult, decay, 0)
        for start, count, lr_mult, decay in spec.runs
        for done in range(0, count, CHUNK)
    ]
    return np.array(rows, ROW)


def adams_correction(spec: UpdateSpec, iteration: int) -> float:
    """Of the bias that Adam's averages have towards their start, zero."""
    t = iteration + 1
    return math.sqrt(1 - spec.momentum2**t) / (1 - spec.momentum**t)
