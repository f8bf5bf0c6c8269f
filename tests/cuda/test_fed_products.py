"""Products whose tiles a warp of their own brings, and what the emulator says of mistakes in that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from netc.backends.cuda.compilation.cubin import compile_variants
from netc.backends.cuda.compilation.nvrtc import Nvrtc
from netc.backends.cuda.device import Device
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.emulator.findings import KernelFault
from netc.errors import NetcError, NetcErrors
from tests.cuda.arrays import PLANTED, get, planted, put, room
from tests.cuda.wgmma_tiles import as_tiles

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

FILE, WRAPPERS = "fed.cu", str(PLANTED.parent / "wrappers.cu")
ROWS, COLUMNS, DEPTH, STAGES, THREADS = 64, 128, 32, 3, 160
SHARED_BYTES = STAGES * (ROWS + COLUMNS) * DEPTH * 4 + 1024
STEPS = 7


def multiply(device: Device, bug: str = "NONE", steps: int = STEPS) -> tuple[np.ndarray, np.ndarray]:
    """The products that one block makes, and those that are right."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-4, 5, (steps, rows, DEPTH)).astype(np.float32) for rows in (ROWS, COLUMNS))
    d = room(device, ROWS * COLUMNS, name="d")
    kernel = planted(
        FILE, f"multiply_fed<{bug}>", THREADS, shared_bytes=SHARED_BYTES, architecture=90, specific=True
    )
    arguments = (np.int32(steps), put(device, a, "a"), put(device, as_tiles(b), "b"), d)
    device.launch(device.load(kernel), (1,), (THREADS,), arguments)
    return get(device, d, (ROWS, COLUMNS)), np.einsum("sik,sjk->ij", a, b)


def faults_of(device: Device, bug: str) -> list[KernelFault]:
    with pytest.raises((KernelFault, NetcErrors)) as caught:
        multiply(device, bug)
    errors = caught.value.errors if isinstance(caught.value, NetcErrors) else [caught.value]
    return [error for error in errors if isinstance(error, KernelFault)]


def lines_of(bug: str) -> list[int]:
    lines = (PLANTED / FILE).read_text(encoding="utf-8").splitlines()
    return [n for n, line in enumerate(lines, start=1) if bug in line.partition("//")[2].split()]


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, STEPS])
def test_products_of_tiles_that_are_brought(device: Device, steps: int) -> None:
    """Fewer steps than stages, as many, and more."""
    if device.properties.architecture != 90:
        pytest.skip("wgmma needs sm_90a")
    np.testing.assert_array_equal(*multiply(device, steps=steps))


@pytest.mark.parametrize("order", ["backward", "random"])
@pytest.mark.parametrize("seed", range(3))
def test_products_in_any_order_of_threads(order: str, seed: int) -> None:
    np.testing.assert_array_equal(*multiply(EmulatedDevice(check=True, order=order, seed=seed)))


UNREAD = {"race", "unwaited bulk copy", "uninitialised read", "unwaited cp.async"}


@pytest.mark.parametrize("order", ["forward", "backward", "random"])
@pytest.mark.parametrize(
    ("bug", "kinds", "words"),
    [
        ("NO_FULL_WAIT", UNREAD, "dynamic shared memory"),
        ("WRONG_PARITY", UNREAD, "dynamic shared memory"),
        ("SAME_PARITY", UNREAD, "dynamic shared memory"),
        ("NO_EMPTY_WAIT", {"wrong mbarrier", *UNREAD}, ""),
        ("EARLY_RELEASE", UNREAD, "dynamic shared memory"),
        ("NO_RELEASE", {"deadlock"}, "mbarrier shared empty+0: arrivals missing: 4, bytes missing: 0"),
        ("LATE_RELEASE", {"deadlock"}, "mbarrier shared empty+0: arrivals missing: 4, bytes missing: 0"),
        ("NO_COPY_WAIT", {"unwaited cp.async"}, "while a cp.async to it has not been waited for"),
        ("NO_SYNCWARP", UNREAD, "dynamic shared memory"),
        ("NO_PRODUCT_WAIT", {"unwaited wgmma"}, "the block ends while 512 products"),
        ("TOO_FEW_BYTES", {"deadlock"}, "mbarrier shared full+0, to which 16 bytes more came than expected"),
        ("TOO_MANY_BYTES", {"deadlock"}, "mbarrier shared full+0: arrivals missing: 0, bytes missing: 16"),
        ("NO_EXPECTATION", UNREAD, "dynamic shared memory"),
        ("NO_FILTERS", {"deadlock"}, "arrivals missing: 0, bytes missing: 16384"),
        ("WRONG_STAGE", UNREAD, "dynamic shared memory"),
    ],
)
def test_mistakes_in_bringing_tiles(order: str, bug: str, kinds: set[str], words: str) -> None:
    """What would hang a GPU is reported as well."""
    faults = faults_of(EmulatedDevice(check=True, order=order, seed=1), bug)
    assert faults[0].kind in kinds, faults
    assert any(words in str(fault) for fault in faults), faults
    lines = lines_of(bug)
    assert not lines or any(fault.at is not None and fault.at.line in lines for fault in faults), faults


def test_the_instructions_for_gpus_assemble() -> None:
    """Of these products, and of the kernels that hold wrappers to a GPU."""
    try:
        compiler = Nvrtc()
    except NetcError as error:
        pytest.skip(str(error))
    fed = planted(FILE, "multiply_fed<NONE>", THREADS, architecture=90, specific=True)
    wrappers = [
        replace(fed, file=WRAPPERS, expression=expression)
        for expression in ("multiply_by_four_warps<bf16, 256, false>", "multiply_brought_tiles<float, 128>")
    ]
    for variants in ([fed], wrappers):
        cubin = compile_variants(compiler, variants, "90a")
        assert all(cubin.symbols[variant.expression].encode() in cubin.code for variant in variants)
