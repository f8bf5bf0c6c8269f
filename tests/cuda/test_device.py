"""What every device refuses and what it promises, shown on the emulated one."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Product
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.emulator.device import EmulatedEvent
from netc.backends.cuda.emulator.findings import KernelFault
from netc.backends.cuda.emulator.runtime import runtime
from netc.backends.cuda.launching import fill
from netc.backends.cuda.layers import activation
from netc.backends.cuda.open import open_device
from netc.errors import NetcError
from tests.cuda.arrays import get, line_of, planted, put, room

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

ONES = np.ones(64, np.float32)


# ---- memory ----
def test_what_is_copied_to_the_device_comes_back(device: EmulatedDevice) -> None:
    x = np.arange(10, dtype=np.float32)
    memory = put(device, x)
    second = room(device, 10)
    device.copy(second, memory)
    device.fill(memory.part(0, 8))
    np.testing.assert_array_equal(get(device, second), x)
    np.testing.assert_array_equal(get(device, memory), [0, 0, *x[2:]])


def pinned(device: EmulatedDevice, array: np.ndarray) -> np.ndarray:
    memory = device.pinned(array.nbytes)
    memory[:] = array.reshape(-1).view(np.uint8)
    return memory


def test_what_is_sent_is_there_when_its_event_has_come(device: EmulatedDevice) -> None:
    first, second, third = (room(device, 64) for _ in range(3))
    events = [
        device.send(memory, pinned(device, ONES * n)) for n, memory in enumerate((first, second, third))
    ]
    device.wait_for(events[1])
    np.testing.assert_array_equal([get(device, first, 64), get(device, second, 64)], [0 * ONES, ONES])
    device.synchronise()
    np.testing.assert_array_equal(get(device, third), 2 * ONES)


def test_what_is_sent_must_be_waited_for(checked: EmulatedDevice) -> None:
    """The emulator copies when somebody waits, and no earlier."""
    x, y, array = room(checked, 64, name="x"), room(checked, 64), pinned(checked, ONES)
    event = checked.send(x, array, checked.mark())
    with pytest.raises(KernelFault, match="uninitialised read"):
        activation.prepare_forward(checked, "ReLU", x, y)()
    array.view(np.float32)[:] = 5
    event.wait()
    activation.prepare_forward(checked, "ReLU", x, y)()
    np.testing.assert_array_equal(get(checked, y), 5 * ONES)


def test_memory_may_be_freed_while_something_is_sent_to_it(checked: EmulatedDevice) -> None:
    memory, other = room(checked, 64), room(checked, 64)
    checked.send(memory, pinned(checked, ONES))
    event = checked.send(other, pinned(checked, 2 * ONES))
    checked.free(memory)
    event.wait()
    np.testing.assert_array_equal(get(checked, other), 2 * ONES)


def test_too_much_is_not_sent(fast: EmulatedDevice) -> None:
    with pytest.raises(NetcError, match="cannot send to target: the sizes differ"):
        fast.send(fast.allocate(255, "target"), pinned(fast, ONES))


def test_new_and_freed_memory_holds_nan(fast: EmulatedDevice) -> None:
    memory = fast.allocate(16)
    assert np.isnan(get(fast, memory)).all()
    fast.upload(memory, ONES[:4])
    view = fast.array(memory).view(np.float32)
    fast.free(memory)
    assert np.isnan(view).all()


def test_a_plan_larger_than_free_memory_is_refused_with_both_numbers() -> None:
    device = EmulatedDevice(memory_bytes=10_000)
    device.allocate(4_000)
    with pytest.raises(NetcError, match="does not fit into the free memory of emulated device 0") as caught:
        device.allocate(6_001, "activations")
    assert caught.value.expected == "at most 6,000 bytes (0.00 GiB) of 10,000"
    assert caught.value.found == "6,001 bytes (0.00 GiB) planned"
    assert "batch_size" in str(caught.value.remedy)
    device.allocate(6_000)


def test_freed_memory_can_be_allocated_again() -> None:
    device = EmulatedDevice(memory_bytes=1000)
    device.free(device.allocate(1000))
    assert device.free_bytes() == 1000


def test_memory_that_is_dropped_without_being_freed_is_forgotten(checked: EmulatedDevice) -> None:
    """The system may give its addresses to another allocation, whose checks it must not disturb."""
    gc.collect()  # what other tests have left goes now, and not meanwhile
    before = runtime().emu_region_count()
    memory = checked.allocate(4096)
    freed = checked.allocate(4096)
    checked.free(freed)
    assert runtime().emu_region_count() == before + 2
    del memory, freed
    assert runtime().emu_region_count() == before + 1  # what was freed is kept for a while
    checked.close()
    assert runtime().emu_region_count() == before


def test_a_part_stays_within_its_memory(fast: EmulatedDevice) -> None:
    memory = fast.allocate(64, "arena")
    assert memory.part(16, 48, "conv1").part(8, 8).address == memory.address + 24
    with pytest.raises(NetcError, match="a part of the memory of conv1"):
        memory.part(16, 48, "conv1").part(8, 41)


def test_more_than_fits_is_not_copied(fast: EmulatedDevice) -> None:
    with pytest.raises(NetcError, match="the sizes differ"):
        fast.upload(fast.allocate(255), ONES)


def test_freed_and_foreign_memory_is_refused(fast: EmulatedDevice) -> None:
    memory, second = put(fast, ONES, "weights"), EmulatedDevice(1)
    with pytest.raises(
        NetcError, match="cannot copy from the host to weights: it is another device's memory"
    ):
        second.upload(memory, ONES)
    fast.free(memory)
    for use in (lambda: fast.fill(memory), lambda: fast.free(memory), lambda: fill.fill(fast, memory, 1)):
        with pytest.raises(NetcError, match="weights: it has been freed"):
            use()


# ---- launches ----
LIMITS = "limits.cu"


def launch_limits(device: EmulatedDevice, kernel: str, grid: Any, block: Any, **options: Any) -> None:
    threads = options.pop("threads", 1024)
    y = room(device, 1024)
    device.launch(device.load(planted(LIMITS, kernel, threads)), grid, block, (y,), **options)


@pytest.mark.parametrize(
    ("grid", "block", "options", "words", "expected"),
    [
        ((1,), (1025,), {}, "threads in a block", "1 to 1,024"),
        ((1,), (32, 33), {}, "threads in a block", "1 to 1,024"),
        ((1,), (65,), {"threads": 64}, "threads in a block", "1 to 64"),
        ((1,), (1, 1, 65), {}, "threads along an axis of a block", "1 to 64"),
        ((1, 65536), (1,), {}, "blocks along an axis of the grid", "1 to 65,535"),
        ((2**31,), (1,), {}, "blocks along an axis of the grid", "1 to 2,147,483,647"),
        ((0,), (1,), {}, "blocks along an axis of the grid", "1 to 2,147,483,647"),
        ((1,), (0,), {}, "threads in a block", "1 to 1,024"),
        ((1,), (1,), {"shared_bytes": 227 * 1024 + 1}, "bytes of dynamic shared memory", "0 to 232,448"),
    ],
)
def test_limits_of_a_launch(
    fast: EmulatedDevice, grid: Any, block: Any, options: dict[str, Any], words: str, expected: str
) -> None:
    with pytest.raises(NetcError, match=f"the number of {words} is out of bounds") as caught:
        launch_limits(fast, "writes_number", grid, block, **options)
    assert caught.value.expected == expected


def test_dynamic_and_static_shared_memory_count_together(fast: EmulatedDevice) -> None:
    launch_limits(fast, "has_some_static_shared", (1,), (1,), shared_bytes=223 * 1024)
    with pytest.raises(NetcError, match="too much shared memory") as caught:
        launch_limits(fast, "has_some_static_shared", (1,), (1,), shared_bytes=223 * 1024 + 1)
    assert caught.value.found == "232,449 bytes"


def test_static_shared_memory_is_limited(fast: EmulatedDevice) -> None:
    with pytest.raises(NetcError, match="too much static shared memory") as caught:
        fast.load(planted(LIMITS, "has_much_static_shared"))
    assert (caught.value.expected, caught.value.found) == ("at most 49,152 bytes", "53,248 bytes")


def test_a_kernel_for_a_newer_device_is_refused(fast: EmulatedDevice) -> None:
    kernel = fast.load(planted(LIMITS, "writes_number", architecture=100))
    with pytest.raises(NetcError, match="cannot run on emulated device 0") as caught:
        fast.launch(kernel, (1,), (1,), (room(fast, 1),))
    assert caught.value.expected == "compute capability 10.0 or newer"


RIGHT = [np.int32(-1), np.uint32(2), np.int64(3), np.float32(4), np.float64(5), np.bool_(True)]


def test_arguments_of_every_type(device: EmulatedDevice) -> None:
    y = room(device, 1)
    device.launch(device.load(planted(LIMITS, "takes_all")), (1,), (1,), (*RIGHT, y))
    assert get(device, y) == [-1 + 2 + 3 + 4 + 5 + 1]


@pytest.mark.parametrize(
    ("position", "wrong", "expected", "found"),
    [
        (0, np.int64(1), "int32", "int64"),
        (1, np.int32(1), "uint32", "int32"),
        (3, np.float64(1), "float32", "float64"),
        (6, np.uint64(1), "memory or None", "uint64"),
        (2, None, "int64", "memory or None"),
        (0, 1, "memory, a numpy scalar such as np.int32(1), or None", "int"),
    ],
)
def test_arguments_of_wrong_types(
    fast: EmulatedDevice, position: int, wrong: Any, expected: str, found: str
) -> None:
    arguments = [*RIGHT, room(fast, 1)]
    arguments[position] = wrong
    with pytest.raises(NetcError, match=f"argument {position} has") as caught:
        fast.launch(fast.load(planted(LIMITS, "takes_all")), (1,), (1,), arguments)
    assert (caught.value.expected, caught.value.found) == (expected, found)


def test_too_few_arguments(fast: EmulatedDevice) -> None:
    with pytest.raises(NetcError, match="the number of arguments differs") as caught:
        fast.launch(fast.load(planted(LIMITS, "takes_all")), (1,), (1,), RIGHT)
    assert (caught.value.expected, caught.value.found) == (7, 6)


def test_a_kernel_that_does_not_compile_is_an_error_with_its_line(
    fast: EmulatedDevice, tmp_path: Path
) -> None:
    source = tmp_path / "broken.cu"
    source.write_text(
        '#include "netc.cuh"\n\nextern "C" __global__ void broken(float* y) { y[0] = wrong; }\n'
    )
    with pytest.raises(NetcError, match=r"cannot compile broken: .*wrong.* was not declared") as caught:
        fast.load(Variant("broken", str(source), "broken", 32))
    assert caught.value.at is not None
    assert (caught.value.at.file, caught.value.at.line) == (str(source), 3)


# ---- faults that fast mode survives ----
def test_a_stray_access_in_fast_mode_is_an_error_not_the_end(fast: EmulatedDevice) -> None:
    x, y = put(fast, ONES), room(fast, 64)
    kernel = fast.load(planted("bounds.cu", "reads_null"))
    with pytest.raises(KernelFault, match="belongs to no buffer") as caught:
        fast.launch(kernel, (1,), (64,), (None, y))
    assert caught.value.kind == "out of bounds"
    fast.launch(kernel, (1,), (64,), (x, y))
    np.testing.assert_array_equal(get(fast, y), ONES)


def test_a_write_past_the_last_page_in_fast_mode(fast: EmulatedDevice) -> None:
    y = room(fast, 1024)
    with pytest.raises(KernelFault, match="belongs to no buffer"):
        fast.launch(fast.load(planted("bounds.cu", "writes_past_end")), (1,), (4,), (np.int32(1024), y))


def test_a_stack_that_overflows(device: EmulatedDevice) -> None:
    kernel = device.load(planted(LIMITS, "recurses"))
    device.launch(kernel, (1,), (1,), (np.int32(2), room(device, 1)))
    with pytest.raises(KernelFault) as caught:
        device.launch(kernel, (1,), (1,), (np.int32(100), room(device, 1)))
    assert caught.value.kind == "stack overflow"


def test_a_division_by_zero_in_fast_mode(fast: EmulatedDevice) -> None:
    kernel = fast.load(planted("values.cu", "divides_by_zero"))
    with pytest.raises(KernelFault, match="divided by zero"):
        fast.launch(kernel, (1,), (1,), (np.int32(0), room(fast, 1, np.int32)))


def test_a_finding_reads_as_one_block_of_text(checked: EmulatedDevice) -> None:
    y = room(checked, 64, name="scores")
    with pytest.raises(KernelFault) as caught:
        checked.launch(checked.load(planted("races.cu", "all_blocks_write")), (2, 1), (1,), (y,))
    place = f"races.cu:{line_of('races.cu', 'all_blocks_write')}"
    first, *rest = str(caught.value).splitlines()
    assert place in first
    assert first.endswith(
        "kernel all_blocks_write: race between blocks: thread 0 (warp 0, lane 0) of block (1, 0, 0): "
        f"overwrites scores+0 without a barrier since thread 0 of another block, at {caught.value.at}"
    )
    assert [line.split(":")[0].strip() for line in rest] == ["remedy"]


# ---- capture ----
@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("allocate memory for more", lambda device, memory: device.allocate(4, "more")),
        ("free x", lambda device, memory: device.free(memory)),
        ("copy from the host to x", lambda device, memory: device.upload(memory, ONES)),
        ("copy to the host from x", lambda device, memory: device.download(memory, np.empty(64, np.float32))),
        ("send to x", lambda device, memory: device.send(memory, ONES)),
        ("mark a moment", lambda device, memory: device.mark()),
        ("wait for an event", lambda device, memory: device.wait_for(EmulatedEvent())),
        ("wait for the device", lambda device, memory: device.synchronise()),
        ("load kernel writes_number", lambda device, memory: device.load(planted(LIMITS, "writes_number"))),
        ("begin another capture", lambda device, memory: device.capture().__enter__()),
    ],
)
def test_what_a_capture_refuses(fast: EmulatedDevice, name: str, use: Callable[[Any, Any], Any]) -> None:
    memory = put(fast, ONES, "x")
    with pytest.raises(NetcError, match=f"cannot {name} while work is being captured"), fast.capture():
        use(fast, memory)
    use(fast, memory)  # afterwards it is allowed again


def test_a_graph_runs_what_was_captured_with_what_memory_holds_then(device: EmulatedDevice) -> None:
    x, y, z = put(device, -ONES, "x"), put(device, 0 * ONES, "y"), room(device, 64, name="z")
    activation.prepare_forward(device, "ReLU", x, z)()  # loads the kernel
    with device.capture() as graphs:
        activation.prepare_forward(device, "ReLU", x, y, (0.5,))()
        device.copy(z, y)
        device.fill(y)
    (graph,) = graphs
    np.testing.assert_array_equal(get(device, y), 0 * ONES)  # nothing has run yet
    graph.replay()
    np.testing.assert_array_equal(get(device, z), -0.5 * ONES)
    device.upload(x, 3 * ONES)
    graph.replay()
    np.testing.assert_array_equal(get(device, z), 3 * ONES)
    np.testing.assert_array_equal(get(device, y), 0 * ONES)


def test_a_product_is_captured(fast: EmulatedDevice) -> None:
    a = put(fast, np.eye(4, dtype=np.float32))
    c = put(fast, np.zeros((4, 4), np.float32))
    fast.gemm(Product(4, 4, 4), a, a, room(fast, 16))
    with fast.capture() as graphs:
        fast.gemm(Product(4, 4, 4, beta=1), a, a, c)
    for _ in range(3):
        graphs[0].replay()
    np.testing.assert_array_equal(get(fast, c, (4, 4)), 3 * np.eye(4))


def test_a_graph_over_freed_memory_is_refused(fast: EmulatedDevice) -> None:
    x = put(fast, ONES, "x")
    fill.fill(fast, x, 1)
    with fast.capture() as graphs:
        fill.fill(fast, x, 2)
    fast.free(x)
    with pytest.raises(NetcError, match="x: it has been freed"):
        graphs[0].replay()


# ---- the choice of a device ----
def test_emulated_devices_are_chosen_by_name() -> None:
    assert open_device("emulated").properties.name == "emulated device 0"
    second = open_device("emulated:1", check=True)
    assert isinstance(second, EmulatedDevice)
    assert (second.properties.name, second.check) == ("emulated device 1", True)


@pytest.mark.parametrize("choice", ["all", "0,1"])
def test_several_gpus_are_not_there_yet(choice: str) -> None:
    with pytest.raises(NetcError, match="training on several GPUs is not there yet"):
        open_device(choice)


@pytest.mark.parametrize("choice", ["", "-1", "gpu0", "emulated:x"])
def test_what_names_no_device_is_refused(choice: str) -> None:
    with pytest.raises(NetcError, match="this names no device"):
        open_device(choice)
