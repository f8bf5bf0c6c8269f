"""Which calls of NCCL are made, shown with a module that stands in for CuPy's; the sums are for GPUs."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from netc.backends.cuda.gpu import CupyDevice
from netc.backends.cuda.gpu.nccl import NcclCollective, join_gpus
from netc.backends.cuda.join import join
from netc.errors import NetcError
from tests.cuda.stand_in_cupy import StandInCupy

pytestmark = pytest.mark.cuda


class StandInError(Exception):
    """cupy.cuda.nccl.NcclError."""


class StandInCommunicator:
    """One rank's communicator: notes its calls, and fails where it is told to."""

    def __init__(self, number: int, calls: list[tuple[Any, ...]]) -> None:
        self._number, self._calls = number, calls
        self.error: StandInError | None = None

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: int) -> None:
            if self.error is not None and name != "abort":
                raise self.error
            self._calls.append((name, self._number, *arguments))

        return call


class StandIn:
    """A machine with two GPUs and NCCL; `calls` is what NCCL was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, available: bool = True) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.communicators: list[StandInCommunicator] = []
        self.cupy = StandInCupy(count=2)
        self.cupy.cuda.nccl = SimpleNamespace(
            available=available,
            NcclError=StandInError,
            NcclCommunicator=SimpleNamespace(initAll=self._init_all),
        )
        monkeypatch.setitem(sys.modules, "cupy", self.cupy)

    def _init_all(self, numbers: list[int]) -> list[StandInCommunicator]:
        self.communicators = [StandInCommunicator(number, self.calls) for number in numbers]
        return self.communicators

    def join(self) -> list[NcclCollective]:
        return join_gpus([CupyDevice(0), CupyDevice(1)])


def test_sums_means_and_copies_in_place_on_the_devices_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandIn(monkeypatch)
    _, one = stand_in.join()
    memory = one.device.allocate(64, "gradients")
    at, stream = memory.address, one.device.stream.ptr
    one.all_reduce(memory)
    one.all_reduce(memory.part(8, 16), "mean", "float64")
    one.all_reduce(memory, dtype="int64")
    one.broadcast(memory, 1)
    float32, float64, int64, uint8 = 7, 8, 4, 1
    total, mean = 0, 4
    assert stand_in.calls == [
        ("allReduce", 1, at, at, 16, float32, total, stream),
        ("allReduce", 1, at + 8, at + 8, 2, float64, mean, stream),
        ("allReduce", 1, at, at, 8, int64, total, stream),
        ("broadcast", 1, at, at, 64, uint8, 1, stream),
    ]


def test_leaving_waits_for_the_device_and_asks_for_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandIn(monkeypatch)
    one, _ = stand_in.join()
    with one:
        pass
    assert ("synchronize",) in stand_in.cupy.calls
    assert stand_in.calls == [("check_async_error", 0), ("destroy", 0)]


def test_a_rank_that_fails_ends_what_the_others_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandIn(monkeypatch)
    one, other = stand_in.join()
    with pytest.raises(ValueError, match="the disk is full"), one:
        raise ValueError("the disk is full")
    assert stand_in.calls == [("abort", 0), ("abort", 1)]
    for use in (lambda: other.all_reduce(other.device.allocate(4)), other.finish):
        with pytest.raises(NetcError, match=r"rank 0 \(GPU 0 \(Stand-in\)\) failed: the disk is full"):
            use()
    assert len(stand_in.calls) == 2


def test_errors_of_nccl_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandIn(monkeypatch)
    one, _ = stand_in.join()
    stand_in.communicators[0].error = StandInError("unhandled cuda error")
    for use in (lambda: one.all_reduce(one.device.allocate(4)), one.finish):
        with pytest.raises(NetcError, match=r"NCCL reports an error on GPU 0 .*: unhandled cuda error"):
            use()


def test_devices_that_nccl_cannot_join(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandIn(monkeypatch)

    def refuse(numbers: list[int]) -> None:
        raise StandInError("invalid usage")

    stand_in.cupy.cuda.nccl.NcclCommunicator.initAll = refuse
    with pytest.raises(NetcError, match="NCCL cannot join GPUs 0, 1: invalid usage"):
        stand_in.join()


def test_without_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    StandIn(monkeypatch, available=False)
    with pytest.raises(NetcError, match="by NCCL, which CuPy cannot load") as caught:
        join([CupyDevice(0), CupyDevice(1)])
    assert "pip install nvidia-nccl-cu13" in str(caught.value.remedy)


def test_a_copy_from_another_gpu_waits_for_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandIn(monkeypatch)
    copies: list[tuple[int, ...]] = []
    stand_in.cupy.cuda.runtime.memcpyPeerAsync = lambda *arguments: copies.append(arguments)
    first, second = CupyDevice(0), CupyDevice(1)
    source, target = first.allocate(64, "source"), second.allocate(64, "target")
    second.copy_from(target, source.part(16, 32), first.mark())
    streams = first.stream.ptr, second.stream.ptr
    assert stand_in.cupy.calls == [("record", streams[0], 0), ("wait", streams[1], 0)]
    # to an address of GPU 1, from one of GPU 0, so many bytes, on GPU 1's stream
    assert copies == [(target.address, 1, source.address + 16, 0, 32, streams[1])]
