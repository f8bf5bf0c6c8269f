"""A net that does not fit into a device's memory is refused as a whole, before any of it is allocated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from google.protobuf import text_format

from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.emulator import EmulatedDevice
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.net import parse_net
from netc.solver import Solver

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

NET = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 50 dim: 30 } } }
layer { name: "small" type: "InnerProduct" bottom: "data" top: "small"
  inner_product_param { num_output: 4 } }
layer { name: "large" type: "InnerProduct" bottom: "small" top: "large"
  inner_product_param { num_output: 2000 } }
layer { name: "loss" type: "Reduction" bottom: "large" top: "loss" loss_weight: 1 }
"""
# Every parameter begins at a multiple of 16 floats: 120 -> 128, 4 -> 16, 8000, 2000.
PARAMETERS = 4 * (128 + 16 + 8000 + 2000)
LARGE = 4 * 50 * 2000  # the blob of most bytes; a training pass keeps two of them at least


class CountingDevice(EmulatedDevice):
    """An emulated device that notes what it is asked for."""

    def __init__(self, memory_bytes: int) -> None:
        super().__init__(memory_bytes=memory_bytes)
        self.asked: list[int] = []

    def _allocate(self, nbytes: int, name: str):  # type: ignore[no-untyped-def]
        self.asked.append(nbytes)
        return super()._allocate(nbytes, name)


def make_net(device: EmulatedDevice) -> object:
    parsed = parse_net(NET, "f")
    return Net(parsed.message, pb.TRAIN, seed=1, positions=parsed.positions, backend=CudaBackend(device))


def make_solver(device: EmulatedDevice, type_: str = "SGD") -> Solver:
    text = f'base_lr: 0.1 lr_policy: "fixed" max_iter: 1 snapshot_after_train: false type: "{type_}"'
    definition = text_format.Parse(text, pb.SolverParameter())
    definition.net_param.CopyFrom(parse_net(NET, "f").message)
    return Solver(definition, backend=CudaBackend(device))


@pytest.mark.parametrize("make", [make_net, make_solver])
def test_nothing_is_allocated_of_a_net_that_does_not_fit(make: Callable[[EmulatedDevice], object]) -> None:
    device = CountingDevice(2 * PARAMETERS + LARGE)
    with pytest.raises(NetcError, match="does not fit into the free memory of emulated device 0") as caught:
        make(device)
    assert sum(device.asked) == 0
    assert caught.value.layer == "large (InnerProduct), the largest"
    assert "planned" in str(caught.value.found)
    assert "smaller batch_size" in str(caught.value.remedy)


def test_the_place_of_the_largest_layer_is_named() -> None:
    with pytest.raises(NetcError) as caught:
        make_net(CountingDevice(1000))
    assert str(caught.value.at) == "f:4:1"


def planned(error: NetcError) -> int:
    return int(str(error.found).partition(" ")[0].replace(",", ""))


@pytest.mark.parametrize(("type_", "histories"), [("SGD", 1), ("Adam", 2)])
def test_what_is_planned_is_what_is_taken(type_: str, histories: int) -> None:
    """Parameters, gradients, histories and blobs; with one byte less than the plan nothing is taken."""
    device = CountingDevice(1 << 30)
    make_solver(device, type_)
    taken = sum(nbytes for nbytes in device.asked if nbytes > 1000)  # the others: tables, the loss's ones
    with pytest.raises(NetcError) as caught:
        make_solver(CountingDevice(1000), type_)
    assert planned(caught.value) == taken
    assert taken >= (2 + histories) * PARAMETERS + LARGE
    with pytest.raises(NetcError, match="does not fit"):
        make_solver(device := CountingDevice(taken - 1), type_)
    assert sum(device.asked) == 0
    make_solver(CountingDevice(taken + 10_000), type_).step(1)


def test_blobs_that_lie_in_anothers_arena_need_no_room(fast: EmulatedDevice) -> None:
    """A net of the same blobs, which shares the parameters too, fits where nothing is free."""
    parsed = parse_net(NET, "f")
    first = Net(parsed.message, pb.TEST, seed=1, backend=CudaBackend(fast), keep="outputs", backward=False)
    fast.properties = replace(fast.properties, name="full", memory_bytes=fast._used)
    with pytest.raises(NetcError, match="does not fit into the free memory of full"):
        Net(parsed.message, pb.TEST, share_with=first, keep="outputs", backward=False)
    Net(parsed.message, pb.TEST, share_with=first, keep="outputs", backward=False, arena=first.arena)
