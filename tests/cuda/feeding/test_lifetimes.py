"""What feeds a net ends with it: its memory on the device, and its threads."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest

from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.emulator import EmulatedDevice
from netc.runtime import Net
from tests.cuda.feeding.databases import (
    IMAGES,
    data_layer,
    net_of,
    raw,
    write_database,
)

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]


def test_a_feed_dies_with_its_net(fast: EmulatedDevice, nets: list[Net]) -> None:
    write_database([raw(i) for i in range(IMAGES)])
    backend, free = CudaBackend(fast), fast.free_bytes()
    net = net_of(data_layer(), backend)
    net.forward()
    source = weakref.ref(net.sources["d"])
    net.close()
    nets.clear()
    del net
    gc.collect()
    fast.allocate_array(1)  # frees what nobody uses
    gc.collect()
    assert source() is None
    assert fast.free_bytes() >= free - 1


def test_a_net_that_is_let_go_takes_its_threads_along(fast: EmulatedDevice, nets: list[Net]) -> None:
    """Also while the batch after the last is on its way to the device, which outlives the net."""
    write_database([raw(i) for i in range(IMAGES)])
    before, backend = set(threading.enumerate()), CudaBackend(fast)
    net = net_of(data_layer(), backend)
    for _ in range(3):
        net.forward()
        time.sleep(0.05)
    assert set(threading.enumerate()) > before
    nets.clear()
    del net
    gc.collect()
    assert set(threading.enumerate()) <= before
