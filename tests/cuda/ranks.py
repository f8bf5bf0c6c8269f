"""Several emulated devices, each with a thread of its own, for tests."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

import numpy as np

from netc.backends.cuda.device import Memory
from netc.backends.cuda.device.collectives import Collective
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.join import join
from tests.cuda.arrays import put

HANGS_SECONDS = 60.0  # a test that takes longer does what it is there to rule out


def ranks(count: int, patience: float = HANGS_SECONDS, check: bool = False) -> list[Collective]:
    """The collectives of new devices."""
    return list(join([EmulatedDevice(index, check=check) for index in range(count)], patience))


def at_once(*functions: Callable[[], object]) -> list[object]:
    """What each returns, or the error that it raises, when each runs in a thread of its own."""
    results: list[object] = [None] * len(functions)

    def run(index: int) -> None:
        try:
            results[index] = functions[index]()
        except Exception as error:
            results[index] = error

    threads = [Thread(target=run, args=(index,), daemon=True) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANGS_SECONDS)
        assert not thread.is_alive(), "a rank hangs"
    return results


def errors_of(*functions: Callable[[], object]) -> list[Exception]:
    """The errors that all of them raise."""
    results = at_once(*functions)
    errors = [result for result in results if isinstance(result, Exception)]
    assert len(errors) == len(functions), results
    return errors


def given(collective: Collective, *values: float, name: str = "gradients") -> Memory:
    """Memory of a rank that holds these floats."""
    return put(collective.device, np.array(values, np.float32), name)
