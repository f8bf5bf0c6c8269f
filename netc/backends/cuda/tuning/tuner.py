"""Which of several ways to do the same work a device is fastest at: timed on first use, then remembered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median

import numpy as np

from netc.backends.cuda.device import Allocation, Device, Memory
from netc.backends.cuda.tuning.timings import Seconds, Timings
from netc.backends.form import Mode, Run
from netc.errors import NetcError

log = logging.getLogger(__name__)

# Binds the work to the memories that `choose` is given sizes for. It reads and writes floats in them alone.
Way = Callable[[Mapping[str, Memory]], Run]

SAMPLES = 5  # of which the median counts
SAMPLE_SECONDS = 1e-3  # a sample is so many runs that it takes about as long, but not more than
MOST_RUNS = 16
LEAST_SECONDS = 1e-6  # no kernel is faster
NOISE_BYTES = 1 << 20


def choose(device: Device, mode: Mode, work: str, ways: Mapping[str, Way], sizes: Mapping[str, int]) -> str:
    """The name of the fastest way to do this work.

    The first is what a rule expects to be fastest: it is taken where nothing may be timed, since the mode is
    deterministic or the device has no clock, and where there is no memory for it. work: says what is done,
    with everything that its time hangs on; sizes: the bytes of the memories that the ways are bound to.

    These are memories of their own, filled with noise and freed again, so that neither a net's values nor the
    gradients it has summed up are touched, and the choice can be made before the net's memory is planned.

    In a rehearsal nothing is timed: the ways' kernels are loaded, and what is returned is the first.
    """
    first = next(iter(ways))
    if len(ways) == 1 or mode.deterministic or not device.has_clock:
        return first
    timings = Timings(device.properties)
    seconds = timings.find(work)
    if set(seconds) != set(ways):
        if mode.rehearsal:
            _load_all(device, ways, sizes)
            return first
        try:
            seconds = _time_all(device, ways, sizes)
        except NetcError as error:
            log.warning("%s is not timed, %s is taken: %s", work, first, error)
            return first
        timings.add(work, seconds)
    fastest = min(ways, key=lambda name: seconds[name])
    log.debug("%s: %s", work, ", ".join(f"{name} {1e6 * seconds[name]:.1f} us" for name in ways))
    return fastest


def _load_all(device: Device, ways: Mapping[str, Way], sizes: Mapping[str, int]) -> None:
    """Asks for the kernels of all ways, by binding them to memories that are not there."""
    memories = {
        name: Memory(Allocation(device, 0, nbytes, name, None), 0, nbytes, name)
        for name, nbytes in sizes.items()
    }
    for way in ways.values():
        way(memories)


def _time_all(device: Device, ways: Mapping[str, Way], sizes: Mapping[str, int]) -> Seconds:
    with _noise(device, sizes) as memories:
        with device.loading_together():
            runs = {name: way(memories) for name, way in ways.items()}
        return {name: _time(device, run) for name, run in runs.items()}


def _time(device: Device, run: Run) -> float:
    """Seconds of a run as part of recorded work, which is how it will run."""
    run()
    once = device.elapsed(run)
    runs = 1 if once >= SAMPLE_SECONDS else min(MOST_RUNS, int(SAMPLE_SECONDS / max(once, LEAST_SECONDS)))
    with device.capture() as graphs:
        for _ in range(runs):
            run()
    replay = graphs[0].replay
    replay()
    return median(device.elapsed(replay) for _ in range(SAMPLES)) / runs


@contextmanager
def _noise(device: Device, sizes: Mapping[str, int]) -> Iterator[dict[str, Memory]]:
    """Memories of these sizes, full of numbers from -1 to 1: a GPU is faster with zeros."""
    numbers = np.random.default_rng(0).uniform(-1, 1, NOISE_BYTES // 4).astype(np.float32)
    memories: dict[str, Memory] = {}
    try:
        for name, nbytes in sizes.items():
            memories[name] = memory = device.allocate(nbytes, f"{name}, for timing")
            _fill(device, memory, numbers)
        yield memories
    finally:
        device.synchronise()
        for memory in memories.values():
            device.free(memory)


def _fill(device: Device, memory: Memory, numbers: np.ndarray) -> None:
    begun = min(memory.nbytes, numbers.nbytes)
    device.upload(memory, numbers[: begun // 4])
    while begun < memory.nbytes:
        more = min(begun, memory.nbytes - begun)
        device.copy(memory.part(begun, more), memory.part(0, more))
        begun += more
