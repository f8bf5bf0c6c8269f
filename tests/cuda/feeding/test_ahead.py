"""The next batch goes up while one is trained on, and what waits for what."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from netc.backends.cpu import CpuBackend
from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.emulator import EmulatedDevice
from netc.data.database_source import DatabaseFeed
from netc.solver.waiting import WaitingSpan
from tests.cuda.feeding.databases import (
    IMAGES,
    batches,
    data_layer,
    floats,
    net_of,
    raw,
    same,
    write_database,
)
from tests.cuda.feeding.watched import LoggedDevice, Sent

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]


@pytest.mark.usefixtures("always_ahead")
def test_the_next_batch_goes_up_while_one_is_trained_on() -> None:
    """Memory is given back to the source when its copy has arrived, a slot when the kernel has read it."""
    write_database([raw(i) for i in range(IMAGES)])
    device = LoggedDevice()
    net = net_of(data_layer("crop_size: 5"), CudaBackend(device))
    net.forward()
    assert device.log == ["send to 0", "slot 0 is awaited", "use of slot 0", "send to 1"]
    net.forward()
    for here, there in ((0, 1), (1, 0)):
        device.log.clear()
        net.forward()
        assert device.log == [
            f"host waits for slot {there}",  # its memory is given back
            f"slot {here} is awaited",
            f"use of slot {here}",
            f"host waits for slot {there}",  # another batch takes its place
            f"send to {there} after use of slot {there}",
        ]


def test_a_batch_that_is_not_there_yet_is_not_waited_for(
    fast: EmulatedDevice, monkeypatch: pytest.MonkeyPatch, sent: Sent
) -> None:
    write_database([raw(i) for i in range(IMAGES)])
    wanted = batches(net_of(data_layer(), CpuBackend()), 3)
    go_on, build = threading.Event(), DatabaseFeed.build

    def held_up(feed: DatabaseFeed, material: Any, pool: Any) -> Any:
        assert material[0] == 0 or go_on.wait(30)
        return build(feed, material, pool)

    monkeypatch.setattr(DatabaseFeed, "build", held_up)
    net = net_of(data_layer(), CudaBackend(fast))
    found = batches(net, 1)
    assert (sent.copies, net.sources["d"].state()) == (1, {"position": 5})
    go_on.set()
    same(found + batches(net, 2), wanted)


@pytest.mark.usefixtures("always_ahead")
def test_programs_of_other_shapes_share_what_has_gone_up(fast: EmulatedDevice, sent: Sent) -> None:
    write_database([raw(i) for i in range(IMAGES)])
    text = (
        data_layer()
        + """layer { name: "in" type: "Input" top: "in" input_param { shape { dim: 2 } } }
      layer { name: "s" type: "Silence" bottom: "in" }"""
    )
    wanted = batches(net_of(text, CpuBackend()), 8)
    net, found = net_of(text, CudaBackend(fast)), []
    for length in (2, 3, 2, 3, 4, 3, 2, 2):
        net.reshape_input("in", (length,))
        found += batches(net, 1)
    same(found, wanted)
    assert sent.copies == 9


def test_finished_batches_go_up_without_a_wait_for_the_device() -> None:
    """Two buffers take turns; only one that is still being copied from is waited for."""
    write_database([floats(i) for i in range(IMAGES)])
    device = LoggedDevice()
    net = net_of(data_layer(), CudaBackend(device))
    assert net.sources["d"].raw is None
    sent = [f"send to {top} after nothing" for top in "hh"]  # the last letters of their memory's name
    for _ in range(2):
        device.log.clear()
        net.forward()
        assert device.log == [*sent, "slot h is awaited"]
    device.log.clear()
    net.forward()
    assert device.log == ["host waits for slot h", *sent, "slot h is awaited"]


def test_waiting_for_data_is_noted(fast: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    write_database([raw(i) for i in range(IMAGES)])
    build = DatabaseFeed.build

    def slow(*arguments: Any) -> Any:
        time.sleep(0.2)
        return build(*arguments)

    monkeypatch.setattr(DatabaseFeed, "build", slow)
    net = net_of(data_layer(), CudaBackend(fast))
    span = WaitingSpan([net])
    net.forward()
    assert 0.1 <= net.sources["d"].waited_s <= span.seconds
    assert span.share > 0
