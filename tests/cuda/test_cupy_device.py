"""The device over CuPy: its errors say what is missing, its calls are those that were meant."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.device import Product
from netc.backends.cuda.gpu import cupy_device
from netc.backends.cuda.open import open_device
from netc.backends.cuda.products import gemm
from netc.errors import NetcError
from tests.cuda.stand_in_cupy import CudaError, DriverError, StandInCupy

pytestmark = pytest.mark.cuda


def use(monkeypatch: pytest.MonkeyPatch, cupy: Any) -> Any:
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return cupy


def error_of(monkeypatch: pytest.MonkeyPatch, cupy: Any, choice: str = "0") -> NetcError:
    use(monkeypatch, cupy)
    with pytest.raises(NetcError) as caught:
        open_device(choice)
    assert caught.value.remedy
    return caught.value


def test_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    error = error_of(monkeypatch, None)
    assert "through CuPy, which cannot be imported" in error.what
    assert "pip install 'netc[cuda13]'" in str(error.remedy)


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    error = error_of(monkeypatch, StandInCupy(driver=0))
    assert error.what == "this machine has no NVIDIA driver"
    assert "-gpu emulated" in str(error.remedy)


def test_with_a_driver_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    error = error_of(monkeypatch, StandInCupy(driver=12040, count=CudaError(35)))
    assert "driver is too old" in error.what
    assert (error.expected, error.found) == ("a driver for CUDA 13.2 or newer", "one for CUDA 12.4")


@pytest.mark.parametrize("count", [0, CudaError(100)])
def test_with_a_driver_but_no_gpu(monkeypatch: pytest.MonkeyPatch, count: Any) -> None:
    assert "no GPU that it can use" in error_of(monkeypatch, StandInCupy(count=count)).what


def test_with_a_driver_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    error = error_of(monkeypatch, StandInCupy(count=CudaError(999, "cudaErrorUnknown")))
    assert "does not answer: cudaErrorUnknown" in error.what


@pytest.mark.parametrize(("count", "expected"), [(1, "GPU 0"), (4, "GPUs 0 to 3")])
def test_a_number_that_no_gpu_has(monkeypatch: pytest.MonkeyPatch, count: int, expected: str) -> None:
    error = error_of(monkeypatch, StandInCupy(count=count), "4")
    assert error.what == "there is no GPU 4 on this machine"
    assert (error.expected, error.found) == (expected, "4")


def test_properties_come_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, StandInCupy())
    properties = open_device(0).properties
    assert (properties.name, properties.architecture, properties.processors) == ("GPU 0 (Stand-in)", 90, 132)


def test_planned_memory_is_compared_with_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = use(monkeypatch, StandInCupy(free=1000, limit=10**9))
    device = open_device(0)
    with pytest.raises(NetcError, match="does not fit into the free memory of GPU 0") as caught:
        device.allocate(1001)
    assert caught.value.found == "1,001 bytes (0.00 GiB) planned"
    # Free memory in pieces: the driver itself refuses.
    cupy.limit = 500
    with pytest.raises(NetcError, match="does not fit into the free memory of GPU 0"):
        device.allocate(900)


def test_copies_run_on_the_devices_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = use(monkeypatch, StandInCupy())
    device = open_device(0)
    x = np.arange(8, dtype=np.float32)
    first, second = device.allocate(32), device.allocate(32)
    device.upload(first, x)
    device.copy(second, first)
    device.fill(second.part(0, 4))
    np.testing.assert_array_equal(device.download(second, np.empty_like(x)), [0, *x[1:]])
    copies = [("memcpy", 1, 32), ("memcpy", 3, 32), ("memset", 0, 4), ("memcpy", 2, 32), ("synchronize",)]
    assert cupy.calls == copies


def test_what_is_sent_goes_its_own_way_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stream 5 is that of the work, 6 that of what is sent."""
    cupy = use(monkeypatch, StandInCupy())
    device = open_device(0)
    x, memory = np.arange(8, dtype=np.float32), device.allocate(64)
    array = device.pinned(32)
    array[:] = x.view(np.uint8)
    (pinned,) = cupy.pinned
    assert np.frombuffer(pinned, np.float32, 8).tolist() == x.tolist()
    arrived = device.send(memory, array, device.mark())
    device.wait_for(arrived)
    arrived.wait()
    assert cupy.calls == [
        ("record", 5, 0), ("wait", 6, 0), ("send", 32, 6), ("record", 6, 1), ("wait", 5, 1), ("await", 1),
    ]  # fmt: skip
    np.testing.assert_array_equal(device.download(memory, np.empty_like(x)), x)


def test_memory_is_freed_when_nothing_is_under_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = use(monkeypatch, StandInCupy())
    device = open_device(0)
    device.free(device.allocate(4))
    assert sorted(cupy.calls) == [("synchronize",), ("synchronize", 6)]


def test_memory_that_cannot_be_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, StandInCupy(limit=100))
    device = open_device(0)
    with pytest.raises(NetcError, match="cannot pin 101 bytes of the host's memory") as caught:
        device.pinned(101)
    assert "batch_size" in str(caught.value.remedy)


def stand_in_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupy_device, "_compiler", lambda: None)
    monkeypatch.setattr(
        cupy_device, "build_cubin", lambda compiler, variant, architecture: Path("some.cubin")
    )
    monkeypatch.setattr(cupy_device, "kernel_symbol", lambda path, expression: "_Z4some")


def test_a_launch_gives_addresses_and_asks_for_large_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = use(monkeypatch, StandInCupy())
    stand_in_compiler(monkeypatch)
    device = open_device(0)
    a, b, c = (device.allocate(64 * 4, name) for name in "abc")
    tile = next(tile for tile in gemm.TILES if tile.math == "tf32" and tile.m == 128)
    gemm.prepare_gemm(device, Product(8, 8, 8, math="tf32"), a, b, c, tile=tile)()
    ((name, symbol, grid, block, arguments, shared, most_shared),) = cupy.calls
    assert (name, symbol, grid, block) == ("launch", "_Z4some", (1, 1, 1), (256, 1, 1))
    assert arguments[4:6] == (np.uint64(a.address), np.uint64(b.address))
    assert arguments[4].dtype == np.uint64
    assert shared == most_shared == tile.shared_bytes(False, False) > 48 * 1024


def test_a_kernel_that_fails_is_an_error_of_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = use(monkeypatch, StandInCupy())
    device = open_device(0)
    memory = device.allocate(4)

    def fail(*_: object) -> None:
        raise DriverError("CUDA_ERROR_ILLEGAL_ADDRESS")

    cupy.cuda.runtime.memsetAsync = fail
    with pytest.raises(NetcError, match=r"GPU 0 \(Stand-in\) reports an error: CUDA_ERROR_ILLEGAL_ADDRESS"):
        device.fill(memory)


def test_a_capture_becomes_a_graph_on_the_same_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = use(monkeypatch, StandInCupy())
    device = open_device(0)
    memory = device.allocate(4)
    with device.capture() as graphs:
        device.fill(memory)
        with pytest.raises(NetcError, match="while work is being captured"):
            device.synchronise()
    graphs[0].replay()
    assert cupy.calls == [("begin_capture",), ("memset", 0, 4), ("graph launch", True)]


def test_work_is_timed_by_events_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = use(monkeypatch, StandInCupy())
    device = open_device(0)
    memory = device.allocate(4)
    assert device.has_clock
    assert device.elapsed(lambda: device.fill(memory)) == pytest.approx(2.5e-3)
    assert cupy.calls == [("record", 5, 0), ("memset", 0, 4), ("record", 5, 1), ("await", 1)]
    with device.capture(), pytest.raises(NetcError, match="cannot time work while work is being captured"):
        device.elapsed(lambda: None)


def test_kernels_of_products_are_loaded_when_they_are_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = use(monkeypatch, StandInCupy())
    stand_in_compiler(monkeypatch)
    plain: list[Any] = []
    monkeypatch.setattr(cupy_device, "_import_cublas", lambda: None)
    monkeypatch.setattr(cupy_device.CupyDevice, "_cublas_gemm", lambda *arguments: plain.append(arguments))
    device = open_device(0)
    a, b, c = (device.allocate(64 * 4, name) for name in "abc")
    run = device.bind_gemm(Product(8, 8, 8, bias="row"), a, b, c, a)
    library = device.bind_gemm(Product(8, 8, 8), a, b, c)
    assert not cupy.calls
    with device.capture():  # where no kernel may be loaded
        run()
        library()
    assert [call[0] for call in cupy.calls] == ["begin_capture", "launch"]
    assert len(plain) == 1


@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
def test_products_go_to_cublas_as_their_transposes(
    monkeypatch: pytest.MonkeyPatch, trans_a: bool, trans_b: bool
) -> None:
    """cuBLAS computes the column-major matrix C' = op(B)' op(A)', the same memory as the row-major C."""
    use(monkeypatch, StandInCupy())
    calls: list[Any] = []
    cublas = SimpleNamespace(
        CUBLAS_OP_N=0,
        CUBLAS_OP_T=1,
        CUBLAS_DEFAULT_MATH=0,
        CUBLAS_TF32_TENSOR_OP_MATH=3,
        setMathMode=lambda handle, mode: calls.append(mode),
        sgemm=lambda *arguments: calls.append(column_major_product(*arguments)),
    )
    monkeypatch.setattr(cupy_device, "_import_cublas", lambda: cublas)
    device = open_device(0)
    rng = np.random.default_rng(0)
    a = rng.standard_normal((5, 3) if trans_a else (3, 5)).astype(np.float32)
    b = rng.standard_normal((4, 5) if trans_b else (5, 4)).astype(np.float32)
    memories = [device.allocate(array.nbytes) for array in (a, b)] + [device.allocate(48)]
    for memory, array in zip(memories, (a, b), strict=False):
        device.upload(memory, array)
    device.gemm(Product(3, 4, 5, trans_a, trans_b, alpha=2, math="tf32"), *memories)
    wanted = 2 * (a.T if trans_a else a) @ (b.T if trans_b else b)
    np.testing.assert_allclose(device.download(memories[2], np.empty((3, 4), np.float32)), wanted, rtol=1e-5)
    assert calls[0] == 3


def column_major_product(
    handle: int, trans_x: int, trans_y: int, rows: int, columns: int, depth: int, alpha: int,
    x: int, x_pitch: int, y: int, y_pitch: int, beta: int, z: int, z_pitch: int,
) -> None:  # fmt: skip
    """What sgemm is defined to do, over addresses."""
    import ctypes

    def matrix(address: int, pitch: int, count: int) -> np.ndarray:
        raw = (ctypes.c_float * (pitch * count)).from_address(address)
        return np.frombuffer(raw, np.float32).reshape(count, pitch).T

    left = matrix(x, x_pitch, rows if trans_x else depth)
    right = matrix(y, y_pitch, depth if trans_y else columns)
    scale = ctypes.c_float.from_address(alpha).value
    matrix(z, z_pitch, columns)[...] = scale * (left.T if trans_x else left) @ (right.T if trans_y else right)
