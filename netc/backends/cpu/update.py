"""The parameters' update on the CPU: one pass over flat arrays, compiled by numba, shared out by OpenMP."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from netc.backends.clipping import clip_scale
from netc.backends.cpu.loops import BoundLoop, compiled, threads_for
from netc.backends.cpu.loops.update_job import JOB, ROW
from netc.backends.form import Run
from netc.backends.update_spec import Stretch, UpdateSpec

log = logging.getLogger(__name__)

SMALLEST = 1 << 17  # elements; fewer never make good what compiling the loops takes
CHUNK = 1 << 14  # elements of a row: what threads share out
FLOAT_BYTES = 4
THREAD_ELEMENTS = 1 << 16  # what a further thread must have to do to be worth its start


class FusedUpdate:
    """Clips, divides by iter_size, regularises, applies the rule and subtracts, in one pass.

    Gives the bits of netc/solver/update.py for any number of threads; only the norm for clipping is summed in
    another order (also the same for any number).
    """

    notes: Sequence[np.ndarray] = ()

    def __init__(
        self, spec: UpdateSpec, data: np.ndarray, grad: np.ndarray, history: Sequence[np.ndarray]
    ) -> None:
        """Compiles the loops. Raises ImportError without numba, OSError without OpenMP."""
        self._spec = spec
        self._loop = compiled("update", spec.type)
        self._given = data, grad, history
        self._arrays = {"data": data, "grad": grad, **dict(zip(("first", "second"), history, strict=False))}
        self._rows = rows_of(spec.stretches)
        self._sums = np.zeros(len(self._rows))
        self._whole = self._bound(record_of(spec), self._rows, int(self._rows["count"].sum()))
        self._whole.job["grad"], self._whole.job["sums"] = address(grad), address(self._sums)
        self._jobs = [self._whole.job]
        clips = spec.clip >= 0
        self._square_sums = compiled("update", "square_sums") if clips else None
        self.capturable = not clips
        self.run: Run = self._clip_and_update if clips else self._whole

    def _bound(self, job: np.ndarray, rows: np.ndarray, elements: int) -> BoundLoop:
        """The loop on rows of so many elements; the job lacks but the gradients."""
        job["rows"], job["row_count"] = address(rows), len(rows)
        for name in ("data", "first", "second"):
            if name in self._arrays:
                job[name] = address(self._arrays[name])
        threads = threads_for(-(-elements // THREAD_ELEMENTS))
        return BoundLoop(self._loop, job, threads, (rows, *self._arrays.values()))

    def only(self, stretches: Iterable[Stretch]) -> FusedUpdate:
        """The same update of nothing but these."""
        return FusedUpdate(replace(self._spec, stretches=tuple(stretches)), *self._given)

    def in_pieces(self, stretch: Stretch, gradient: np.ndarray) -> list[Run]:
        """As `PiecewiseUpdate` says."""
        size = gradient.size
        pieces = [
            stretch._replace(start=stretch.start + done, elements=min(size, stretch.elements - done))
            for done in range(0, stretch.elements, size)
        ]
        jobs = np.repeat(record_of(self._spec), len(pieces))
        self._jobs.append(jobs)
        runs: list[Run] = []
        for place, piece in enumerate(pieces):
            job = jobs[place : place + 1]
            job["grad"] = address(gradient) - FLOAT_BYTES * piece.start  # rows count from the arena's start
            runs.append(self._bound(job, rows_of([piece]), piece.elements))
        return runs

    def prepare(self, iteration: int, rate: float) -> None:
        """Sets what the next update reads. iteration: the number of updates made before; rate: the learning
        rate."""
        spec = self._spec
        correction = adams_correction(spec, iteration) if spec.type == "Adam" else 1.0
        for jobs in self._jobs:
            jobs["rate"] = rate
            jobs["correction"] = correction

    def _clip_and_update(self) -> None:
        job, spec = self._whole.job, self._spec
        assert self._square_sums is not None
        self._square_sums(job, self._whole.threads)
        job["scale"] = clip_scale(math.sqrt(self._sums.sum()), spec.clip) / spec.iter_size
        self._whole()

    def outcome(self) -> bool:
        """True: what it is given has not been scaled."""
        return True

    def outcome_of(self, noted: np.ndarray) -> bool:
        """As `outcome`: it leaves no notes."""
        return True


def make_update(
    spec: UpdateSpec, data: np.ndarray, grad: np.ndarray, history: Sequence[np.ndarray]
) -> FusedUpdate | None:
    """The update of these flat arrays; None where NumPy has to do it: they are not float32 or too small, or
    numba or OpenMP are missing or fail."""
    if data.dtype != np.float32 or sum(stretch.elements for stretch in spec.stretches) < SMALLEST:
        return None
    try:
        return FusedUpdate(spec, data, grad, history)
    except (ImportError, OSError) as error:
        log.info("The update of the parameters would be faster with numba (pip install netc[cpu]): %s", error)
    except Exception as error:  # whatever compiling, or what an earlier version has cached, may raise
        log.warning("NumPy updates the parameters, since numba failed: %s: %s", type(error).__name__, error)
    return None


def record_of(spec: UpdateSpec) -> np.ndarray:
    """A job with all that a solver definition says; addresses and the rate are missing."""
    job = np.zeros(1, JOB)
    values = {
        "scale": 1 / spec.iter_size,
        "l1": spec.l1,
        "momentum": spec.momentum,
        "momentum2": spec.momentum2,
        "delta": spec.delta,
        "lookahead": 1 + spec.momentum,
        "new": 1 - spec.momentum,
        "new2": 1 - spec.momentum2,
    }
    for name, value in values.items():
        job[name] = value
    return job


def rows_of(stretches: Iterable[Stretch]) -> np.ndarray:
    """The stretches, cut into chunks, as the loops read them."""
    rows = [
        (start + done, min(CHUNK, count - done), lr_mult, decay, 0)
        for start, count, lr_mult, decay in stretches
        for done in range(0, count, CHUNK)
    ]
    return np.array(rows, ROW)


def address(array: np.ndarray) -> int:
    """Of its first element."""
    return int(array.ctypes.data)


def adams_correction(spec: UpdateSpec, iteration: int) -> float:
    """Of the bias that Adam's averages have towards their start, zero."""
    t = iteration + 1
    return math.sqrt(1 - spec.momentum2**t) / (1 - spec.momentum**t)
