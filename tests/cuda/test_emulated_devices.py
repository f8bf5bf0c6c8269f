"""Several emulated devices side by side: memory, order of work, threads, copies from one to another."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import netc
from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.device import Allocation, Memory
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.emulator.findings import KernelFault
from netc.backends.cuda.gpu import CupyDevice
from netc.backends.cuda.launching import fill
from netc.backends.cuda.open import open_device
from netc.errors import NetcError
from tests.cuda.arrays import get, planted, put, room
from tests.cuda.ranks import at_once, given, ranks
from tests.cuda.test_training import lenet, make_solver

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

ONES = np.ones(64, np.float32)


def two(check: bool = False) -> tuple[EmulatedDevice, EmulatedDevice]:
    return EmulatedDevice(0, check=check), EmulatedDevice(1, check=check)


# ---- names ----
@pytest.mark.parametrize(("name", "index"), [("emulated", 0), ("emulated:0", 0), ("emulated:3", 3)])
def test_devices_have_names(name: str, index: int) -> None:
    assert open_device(name).properties.name == f"emulated device {index}"


@pytest.mark.parametrize("name", ["emulated:", "emulated:-1", "emulated:one", "emulated 1", "emulator"])
def test_what_is_no_devices_name_is_refused(name: str) -> None:
    try:
        netc.set_device(name)
        with pytest.raises(NetcError, match="this names no device") as caught:
            netc.set_mode_gpu()
    finally:
        netc.set_device(0)
    assert "emulated:1" in str(caught.value.expected)
    assert caught.value.found == repr(name)


def test_training_on_several_emulated_devices_is_not_there_yet() -> None:
    with pytest.raises(NetcError, match="training on several GPUs is not there yet"):
        open_device("emulated:0,emulated:1")


# ---- memory ----
def test_a_pointer_of_another_device_is_told_from_one_of_this() -> None:
    """A pointer that goes in as a number passes the checks of a launch; check mode sees whose it is."""
    first, second = two(check=True)
    y, other = room(first, 64), put(second, ONES, "weights")
    kernel = first.load(planted("bounds.cu", "reads_address"))
    with pytest.raises(KernelFault) as caught:
        first.launch(kernel, (1,), (64,), (np.uint64(other.address), y))
    assert caught.value.kind == "out of bounds"
    assert (
        "inside weights of emulated device 1, which this launch was not given: it is another device's memory"
    ) in str(caught.value)
    own = put(first, ONES, "biases")
    with pytest.raises(KernelFault) as caught:
        first.launch(kernel, (1,), (64,), (np.uint64(own.address), y))
    assert "inside biases of emulated device 0, which this launch was not given" in str(caught.value)
    assert "another device" not in str(caught.value)


def test_devices_of_one_number_are_told_apart_too() -> None:
    first, second = EmulatedDevice(check=True), EmulatedDevice(check=True)
    kernel, other = first.load(planted("bounds.cu", "reads_address")), put(second, ONES)
    with pytest.raises(KernelFault, match="it is another device's memory"):
        first.launch(kernel, (1,), (64,), (np.uint64(other.address), room(first, 64)))


def test_a_launch_is_refused_another_devices_memory() -> None:
    first, second = two()
    with pytest.raises(NetcError, match=r"give kernel .* weights: it is another device's memory") as caught:
        fill.copy(first, put(first, ONES, "data"), put(second, ONES, "weights"))
    assert (caught.value.expected, caught.value.found) == ("emulated device 0", "emulated device 1")


def test_each_device_has_its_own_amount_of_memory() -> None:
    first, second = EmulatedDevice(0, memory_bytes=1000), EmulatedDevice(1, memory_bytes=1000)
    first.allocate(1000)
    with pytest.raises(NetcError, match="free memory of emulated device 0"):
        first.allocate(1)
    assert second.free_bytes() == 1000


# ---- copies ----
def test_a_copy_from_another_device() -> None:
    first, second = two(check=True)
    source, target = put(first, np.arange(64, dtype=np.float32)), room(second, 64)
    second.copy_from(target, source.part(64, 128), first.mark())
    np.testing.assert_array_equal(get(second, target)[:32], np.arange(16, 48))
    with pytest.raises(
        KernelFault, match=r"read of output\+128, which nothing has written"
    ):  # the rest is as it was
        fill.copy(second, target, room(second, 64))


def test_what_is_not_written_is_not_written_after_a_copy() -> None:
    first, second = two(check=True)
    target = put(second, ONES, "target")
    second.copy_from(target, room(first, 64), first.mark())
    with pytest.raises(KernelFault, match=r"read of target\+0, which nothing has written"):
        fill.copy(second, target, room(second, 64))


def test_copies_between_devices_that_cannot_be() -> None:
    first, second = two()
    source, target = put(first, ONES, "source"), room(second, 32, name="target")
    with pytest.raises(NetcError, match="cannot copy to target: the sizes differ"):
        second.copy_from(target, source, first.mark())
    with pytest.raises(NetcError, match="copy to target: it is another device's memory"):
        first.copy_from(target, source.part(0, 4), first.mark())
    moment = first.mark()
    with pytest.raises(NetcError, match="cannot copy from emulated device 0 while"), second.capture():
        second.copy_from(target, source.part(0, 4), moment)
    first.free(source)
    with pytest.raises(NetcError, match="cannot copy source: it has been freed"):
        second.copy_from(target, source.part(0, 4), moment)


def test_a_copy_from_another_kind_of_device() -> None:
    device = EmulatedDevice()
    gpu = CupyDevice.__new__(CupyDevice)
    gpu.properties = device.properties
    source = Memory(Allocation(gpu, 0, 4, "source", None), 0, 4, "source")
    with pytest.raises(NetcError, match="cannot copy source from another kind of device"):
        device.copy_from(put(device, ONES), source, device.mark())


# ---- the order of work ----
def test_work_waits_in_line_behind_another_device_and_the_thread_goes_on() -> None:
    """Rank 1 has not come yet: what rank 0's device is asked for meanwhile is done after its sum."""
    one, other = ranks(2, check=True)
    device = one.device
    x, y, z = given(one, 1, 2), room(device, 2, name="y"), given(one, 7, 7, name="z")
    device.load(fill.VARIANTS["fill", 1])
    one.all_reduce(x)
    fill.copy(device, x, y)
    device.upload(z, np.array([5, 6], np.float32))
    moment = device.mark()
    event = device.send(x, np.array([8, 9], np.float32).view(np.uint8), moment)
    assert np.isnan(device.array(y).view(np.float32)).all()
    np.testing.assert_array_equal(device.array(z).view(np.float32), [7, 7])
    other.all_reduce(given(other, 10, 20))
    event.wait()  # which its moment comes before
    np.testing.assert_array_equal(get(device, y), [11, 22])
    np.testing.assert_array_equal(get(device, z), [5, 6])
    np.testing.assert_array_equal(get(device, x), [8, 9])


def test_a_copy_from_a_device_whose_work_waits_in_line() -> None:
    one, other = ranks(2)
    third = EmulatedDevice(2)
    x, target = given(one, 1), put(third, np.zeros(1, np.float32))
    one.all_reduce(x)
    third.copy_from(target, x, one.device.mark())
    other.all_reduce(given(other, 10))
    assert get(third, target) == 11


def test_the_host_may_change_what_it_copied_while_the_copy_waits_in_line() -> None:
    one, other = ranks(2)
    x, z, array = given(one, 1), given(one, 7, name="z"), np.array([5], np.float32)
    one.all_reduce(x)
    one.device.upload(z, array)
    array[:] = 6
    other.all_reduce(given(other, 1))
    assert get(one.device, z) == 5


def test_a_fault_in_line_is_raised_where_it_is_waited_for_and_drops_what_follows() -> None:
    one, other = ranks(2, check=True)
    device = one.device
    x, y = given(one, 1), given(one, 3, name="y")
    one.all_reduce(x)
    device.launch(device.load(planted("bounds.cu", "reads_null")), (1,), (1,), (None, y))
    device.fill(y)
    moment = device.mark()
    other.all_reduce(given(other, 1))
    with pytest.raises(KernelFault, match="through a null pointer"):
        device.synchronise()
    with pytest.raises(KernelFault, match="through a null pointer"):
        moment.wait()
    assert get(device, y) == 3
    assert get(device, x) == 2


def test_functions_of_xp_find_earlier_work_done() -> None:
    one, other = ranks(2)
    x, array = given(one, 2), one.device.allocate_array(4).view(np.float32)
    one.all_reduce(x)
    one.device.copy(one.device.memory_of(array), x)
    other.all_reduce(given(other, 3))
    assert array == 0  # nobody has asked rank 0's device since
    with one.device.active():
        assert array == 5


def test_work_in_line_may_itself_use_the_device() -> None:
    one, other = ranks(2)
    device, x = one.device, given(one, 2)
    seen: list[float] = []

    def work() -> None:
        seen.append(float(get(device, x)[0]))
        fill.fill(device, x, 7)
        device.synchronise()
        seen.append(float(get(device, x)[0]))

    one.all_reduce(x)
    device.run_xp(work)
    other.all_reduce(given(other, 3))
    device.synchronise()
    assert seen == [5, 7]


# ---- threads ----
def test_each_device_trains_in_its_own_thread_as_it_would_alone() -> None:
    def losses(device: EmulatedDevice, seed: int) -> list[float]:
        solver = make_solver(lenet(), CudaBackend(device))
        solver.net.parameters.data[:5] = seed
        found = []
        for _ in range(4):
            solver.step(1)
            found.append(solver.loss)
        solver.close()
        return found

    alone = [losses(EmulatedDevice(), seed) for seed in (0, 1)]
    first, second = two()
    together = at_once(lambda: losses(first, 0), lambda: losses(second, 1))
    assert together == alone
    assert alone[0] != alone[1]


def test_a_fault_in_one_thread_is_not_the_others() -> None:
    first, second = two(check=True)
    wrong = second.load(planted("bounds.cu", "reads_null"))
    begin = threading.Barrier(2)

    def works() -> float:
        y = room(first, 4096)
        begin.wait()
        for value in range(20):
            fill.fill(first, y, value)
        return float(get(first, y).sum())

    def fails() -> int:
        y, faults = room(second, 64), 0
        begin.wait()
        for _ in range(20):
            try:
                second.launch(wrong, (1,), (64,), (None, y))
            except KernelFault:
                faults += 1
        return faults

    assert at_once(works, fails) == [19 * 4096, 20]
