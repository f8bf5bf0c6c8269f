"""Check mode finds bugs of each class, and names kernel, thread, block and source line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.device import Memory
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.emulator.findings import KernelFault
from netc.errors import NetcErrors
from tests.cuda.arrays import line_of, planted, put, room

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

ONES = np.ones(64, np.float32)


def run(
    device: EmulatedDevice, file: str, kernel: str, arguments: Any, threads: int = 64, **launch: Any
) -> None:
    grid = launch.pop("grid", (1,))
    device.launch(device.load(planted(file, kernel)), grid, (threads,), arguments, **launch)


def fault_of(device: EmulatedDevice, file: str, kernel: str, *arguments: Any, **launch: Any) -> KernelFault:
    """The first fault of a planted kernel: held to be on the marked line."""
    with pytest.raises((KernelFault, NetcErrors)) as caught:
        run(device, file, kernel, arguments, **launch)
    error = caught.value
    fault = error if isinstance(error, KernelFault) else error.errors[0]
    assert isinstance(fault, KernelFault)
    assert fault.kernel == kernel
    assert fault.at is not None, str(fault)
    assert (fault.at.file.endswith(file), fault.at.line) == (True, line_of(file, kernel)), str(fault)
    return fault


def x_and_y(device: EmulatedDevice) -> tuple[Memory, Memory]:
    return put(device, ONES, "x"), room(device, 64, name="y")


def test_a_read_past_the_end(checked: EmulatedDevice) -> None:
    fault = fault_of(checked, "bounds.cu", "reads_past_end", np.int32(64), *x_and_y(checked))
    assert (fault.kind, fault.thread, fault.block) == ("out of bounds", 63, (0, 0, 0))
    assert "read of 4 bytes 0 bytes past the end of x" in str(fault)


def test_a_write_past_the_end(checked: EmulatedDevice) -> None:
    fault = fault_of(checked, "bounds.cu", "writes_past_end", np.int32(64), room(checked, 64, name="y"))
    assert (fault.kind, fault.thread) == ("out of bounds", 3)
    assert "write of 4 bytes 0 bytes past the end of y" in str(fault)


def test_a_read_before_the_start(checked: EmulatedDevice) -> None:
    fault = fault_of(checked, "bounds.cu", "reads_before_start", *x_and_y(checked))
    assert "4 bytes before the start of x" in str(fault)


def test_a_read_past_a_static_shared_array(checked: EmulatedDevice) -> None:
    y = room(checked, 32, name="y")
    fault = fault_of(checked, "bounds.cu", "reads_past_static_shared", np.int32(1), y, threads=32)
    assert (fault.kind, fault.thread) == ("out of bounds", 31)
    assert "past the end of shared low" in str(fault)


def test_a_write_past_dynamic_shared_memory(checked: EmulatedDevice) -> None:
    y = room(checked, 64, name="y")
    fault = fault_of(checked, "bounds.cu", "writes_past_dynamic_shared", np.int32(1), y, shared_bytes=64 * 4)
    assert (fault.kind, fault.thread) == ("out of bounds", 63)
    assert "past the end of dynamic shared memory" in str(fault)


def test_a_read_from_another_live_buffer(checked: EmulatedDevice) -> None:
    x, y = x_and_y(checked)
    other = put(checked, np.ones(4096, np.float32), "weights")
    offset = (other.address + 8192 - x.address) // 4
    fault = fault_of(checked, "bounds.cu", "reads_other_buffer", np.int64(offset), x, y)
    assert "inside weights of emulated device 0, which this launch was not given" in str(fault)


def test_a_read_from_another_devices_buffer(checked: EmulatedDevice) -> None:
    second = EmulatedDevice(1, check=True)
    x, y = x_and_y(checked)
    other = put(second, np.ones(4096, np.float32), "weights")
    offset = (other.address + 8192 - x.address) // 4
    fault = fault_of(checked, "bounds.cu", "reads_other_buffer", np.int64(offset), x, y)
    assert "inside weights of emulated device 1, which this launch was not given" in str(fault)


def test_a_read_past_a_part_of_an_arena(checked: EmulatedDevice) -> None:
    arena = put(checked, np.ones(8192, np.float32), "arena")
    y = room(checked, 64, name="y")
    fault = fault_of(checked, "bounds.cu", "reads_past_end", np.int32(64), arena.part(0, 256, "conv1"), y)
    assert "0 bytes past the end of conv1" in str(fault)


def test_a_null_pointer(checked: EmulatedDevice) -> None:
    fault = fault_of(checked, "bounds.cu", "reads_null", None, room(checked, 64))
    assert "through a null pointer" in str(fault)


def test_freed_memory(checked: EmulatedDevice) -> None:
    x, y = x_and_y(checked)
    checked.free(x)
    fault = fault_of(checked, "bounds.cu", "reads_address", np.uint64(x.address), y)
    assert fault.kind == "use after free"
    assert "inside x of emulated device 0, which has been freed" in str(fault)


def test_a_misaligned_vector(checked: EmulatedDevice) -> None:
    fault = fault_of(checked, "bounds.cu", "loads_misaligned", *x_and_y(checked))
    assert fault.kind == "misaligned access"
    assert "x+4" in str(fault)


def test_another_threads_local_variable(checked: EmulatedDevice) -> None:
    fault = fault_of(checked, "bounds.cu", "reads_other_threads_local", room(checked, 64))
    assert "a local variable of another thread" in str(fault)


def test_global_memory_that_nobody_wrote(checked: EmulatedDevice) -> None:
    x, y = room(checked, 64, name="x"), room(checked, 64, name="y")
    fault = fault_of(checked, "values.cu", "reads_unwritten_global", x, y)
    assert (fault.kind, fault.thread) == ("uninitialised read", 0)
    assert "read of x+0" in str(fault)


def test_poisoned_memory_counts_as_unwritten(checked: EmulatedDevice) -> None:
    x, y = x_and_y(checked)
    run(checked, "values.cu", "reads_unwritten_global", (x, y))
    checked.poison(x)
    fault = fault_of(checked, "values.cu", "reads_unwritten_global", x, y)
    assert fault.kind == "uninitialised read"


def test_a_copy_of_unwritten_memory_is_unwritten(checked: EmulatedDevice) -> None:
    source, (x, y) = room(checked, 64), x_and_y(checked)
    checked.upload(source, ONES[:32])
    checked.copy(x, source)
    fault = fault_of(checked, "values.cu", "reads_unwritten_global", x, y)
    assert (fault.kind, fault.thread) == ("uninitialised read", 32)


def test_shared_memory_that_nobody_wrote(checked: EmulatedDevice) -> None:
    fault = fault_of(checked, "values.cu", "reads_unwritten_shared", room(checked, 32), threads=32)
    assert fault.kind == "uninitialised read"
    assert "shared all+128" in str(fault)


@pytest.mark.parametrize(
    ("kernel", "argument", "words"),
    [
        ("shifts_too_far", np.int32(32), "shift"),
        ("shifts_too_far", np.int32(-1), "shift"),
        ("indexes_past_registers", np.int32(1), "an index is outside its array"),
        ("casts_too_large", np.float32(3e9), "does not fit the integer"),
        ("overflows", np.int32(2**31 - 1), "a signed sum overflows"),
        ("divides_by_zero", np.int32(0), "divided by zero"),
    ],
)
def test_undefined_arithmetic(checked: EmulatedDevice, kernel: str, argument: Any, words: str) -> None:
    y = room(checked, 64)
    fault = fault_of(checked, "values.cu", kernel, argument, y, threads=4)
    assert fault.kind == "undefined behaviour"
    assert words in str(fault)


@pytest.mark.parametrize(
    ("kernel", "threads", "buffers"),
    [
        ("misses_barrier", 64, 1),
        ("misses_second_barrier", 64, 1),
        ("relies_on_lock_step", 32, 1),
        ("exchanges_in_global", 64, 2),
        ("waits_alone", 64, 2),
    ],
)
@pytest.mark.parametrize("order", ["forward", "backward", "random"])
def test_a_race_within_a_block_in_any_order(kernel: str, threads: int, buffers: int, order: str) -> None:
    """Whether a race is found does not hang on the order in which the threads happen to run."""
    device = EmulatedDevice(check=True, order=order, seed=7)
    memories = [room(device, 64, name=f"buffer{i}") for i in range(buffers)]
    with pytest.raises((KernelFault, NetcErrors)) as caught:
        run(device, "races.cu", kernel, memories, threads)
    races = [fault for fault in getattr(caught.value, "errors", [caught.value]) if fault.kind == "race"]
    # It hangs on the order which of the two accesses comes second; the finding names both lines.
    assert f"races.cu:{line_of('races.cu', kernel)}" in str(races[0])


def test_a_race_between_blocks(checked: EmulatedDevice) -> None:
    fault = fault_of(checked, "races.cu", "all_blocks_write", room(checked, 64, name="y"), grid=(2,))
    assert (fault.kind, fault.block) == ("race between blocks", (1, 0, 0))
    assert "overwrites y+0" in str(fault)


def test_atomic_additions_beside_a_plain_one(checked: EmulatedDevice) -> None:
    y = put(checked, np.zeros(1, np.float32), "y")
    fault = fault_of(checked, "races.cu", "adds_plainly", y, grid=(2,), threads=32)
    assert (fault.thread, fault.block) == (5, (1, 0, 0))


@pytest.mark.parametrize("order", ["forward", "backward", "random"])
def test_a_right_kernel_has_no_finding(order: str) -> None:
    device = EmulatedDevice(check=True, order=order)
    y = put(device, np.zeros(1, np.float32))
    for _ in range(2):  # what an earlier launch did is no race with this one
        run(device, "races.cu", "is_right", (room(device, 128), y), grid=(2,))
    assert device.download(y, np.empty(1, np.float32)) == [2 * 2 * (64 + 63 * 32)]


@pytest.mark.parametrize(
    ("kernel", "kind", "words"),
    [
        ("diverges", "divergent barrier", "waits at the __syncthreads"),
        ("mask_lacks_caller", "bad mask", "lacks the lane that calls it"),
        ("mask_names_ended", "bad mask", "names lanes that have ended"),
        ("shuffles_from_outside", "bad mask", "a lane that the mask does not name"),
        ("waits_for_ever", "deadlock", "lanes that never come"),
    ],
)
def test_threads_that_wait_wrongly(checked: EmulatedDevice, kernel: str, kind: str, words: str) -> None:
    fault = fault_of(checked, "waiting.cu", kernel, room(checked, 64), threads=32)
    assert fault.kind == kind
    assert words in str(fault)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("uses_copy_early", "unwaited cp.async"),
        ("never_waits", "unwaited cp.async"),
        ("copies_misaligned", "misaligned access"),
    ],
)
def test_asynchronous_copies(checked: EmulatedDevice, kernel: str, kind: str) -> None:
    fault = fault_of(checked, "waiting.cu", kernel, *x_and_y(checked))
    assert fault.kind == kind


def test_an_asynchronous_copy_lands_late_even_in_fast_mode(fast: EmulatedDevice) -> None:
    x, y = x_and_y(fast)
    run(fast, "waiting.cu", "uses_copy_early", (x, y))
    assert np.isnan(fast.download(y, np.empty(64, np.float32))).all()
