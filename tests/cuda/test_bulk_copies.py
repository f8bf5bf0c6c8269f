"""Bulk copies and mbarriers: what they bring, and what the emulator says of mistakes with them."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.compilation.cubin import compile_variants
from netc.backends.cuda.compilation.nvrtc import Nvrtc
from netc.backends.cuda.device import Argument, Device
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.emulator.findings import KernelFault
from netc.errors import NetcError, NetcErrors
from tests.cuda.arrays import PLANTED, get, put, room

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

FILE, ARCHITECTURE = "bulk.cu", 90
TILE, TILES, THREADS = 64, 7, 96  # the thread that brings tiles is in a warp of its own

ORDERS = ["forward", "backward", "random"]


def run(device: Device, expression: str, threads: int, *arguments: Argument) -> None:
    variant = Variant(expression, str(PLANTED / FILE), expression, threads, architecture=ARCHITECTURE)
    device.launch(device.load(variant), (1,), (threads,), arguments)


def sum_tiles(device: Device, bug: str = "NONE", tiles: int = TILES) -> tuple[np.ndarray, np.ndarray]:
    """The sums that one block makes, and those that are right."""
    x = np.random.default_rng(0).integers(-9, 9, (tiles, TILE)).astype(np.float32)
    given, y = put(device, x, "x"), room(device, TILE, name="y")
    run(device, f"sum_tiles<{bug}>", THREADS, np.int32(tiles), given, y)
    return get(device, y), x.sum(0)


def faults_of(run: Callable[[], object]) -> list[KernelFault]:
    """What check mode finds; where it goes on after a finding, there may be several."""
    with pytest.raises((KernelFault, NetcErrors)) as caught:
        run()
    errors = caught.value.errors if isinstance(caught.value, NetcErrors) else [caught.value]
    return [error for error in errors if isinstance(error, KernelFault)]


def lines_of(word: str) -> list[int]:
    lines = (PLANTED / FILE).read_text(encoding="utf-8").splitlines()
    return [n for n, line in enumerate(lines, start=1) if word in line.partition("//")[2].split()]


@pytest.mark.parametrize("tiles", [1, 2, 3, TILES])
def test_what_bulk_copies_bring(device: Device, tiles: int) -> None:
    if device.properties.architecture < ARCHITECTURE:
        pytest.skip("bulk copies need sm_90")
    np.testing.assert_array_equal(*sum_tiles(device, tiles=tiles))


@pytest.mark.parametrize("order", ["backward", "random"])
@pytest.mark.parametrize("seed", range(3))
def test_what_they_bring_in_any_order_of_threads(order: str, seed: int) -> None:
    device = EmulatedDevice(check=True, order=order, seed=seed)
    np.testing.assert_array_equal(*sum_tiles(device))


def test_one_thread_may_wait_for_all(checked: EmulatedDevice) -> None:
    x, y = np.arange(TILE, dtype=np.float32), room(checked, TILE)
    run(checked, "one_waits_for_all", TILE, put(checked, x), y)
    np.testing.assert_array_equal(get(checked, y), x)


@pytest.mark.parametrize("order", ORDERS)
def test_one_lane_arrives_for_its_warp_after_a_syncwarp(order: str) -> None:
    device = EmulatedDevice(check=True, order=order)
    y = room(device, 32)
    run(device, "one_arrives_for_its_warp<true>", 64, y)
    np.testing.assert_array_equal(get(device, y), np.arange(32))
    faults = faults_of(lambda: run(device, "one_arrives_for_its_warp<false>", 64, y))
    assert {fault.kind for fault in faults} <= {"race", "uninitialised read"}
    assert {line for fault in faults if fault.at for line in [fault.at.line]} & {
        *lines_of("one_arrives_for_its_warp"),
        *lines_of("written"),
    }


@pytest.mark.parametrize("order", ORDERS)
def test_nobody_who_reads_has_waited(order: str) -> None:
    """The data are there, by luck."""
    device = EmulatedDevice(check=True, order=order)
    x, y = put(device, np.ones(TILE, np.float32)), room(device, TILE)
    (fault,) = faults_of(lambda: run(device, "waiter_leaves", TILE, x, y))
    assert fault.kind == "unwaited bulk copy"
    assert re.search(r"reads shared tile\+\d+, which a bulk copy has brought, without waiting", str(fault))
    assert fault.at is not None
    assert fault.at.line in lines_of("waiter_leaves")


def test_more_is_copied_than_a_phase_expects(checked: EmulatedDevice) -> None:
    """The second half is read while it is on its way, and lands in another phase."""
    x, y = put(checked, np.ones(TILE, np.float32)), room(checked, TILE)
    faults = {fault.kind: fault for fault in faults_of(lambda: run(checked, "expects_half", TILE, x, y))}
    reads, lands = faults["unwaited bulk copy"], faults["wrong byte count"]
    assert "read of shared tile+128 while a bulk copy to it is on its way" in str(reads)
    assert "comes after the phase of its mbarrier: more bytes were copied than were expected" in str(lands)
    for fault, place in ((reads, "expects_half"), (lands, "landed")):
        assert fault.at is not None
        assert fault.at.line in lines_of(place)


UNREAD = {"unwaited bulk copy", "uninitialised read"}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("bug", "kinds", "words"),
    [
        ("NO_WAIT", UNREAD, "read of shared stages"),
        ("WRONG_PARITY", UNREAD, "read of shared stages"),
        ("ONE_WAITS", UNREAD, "read of shared stages"),
        ("NO_ARRIVAL", {"deadlock"}, "mbarrier shared empty+0: arrivals missing: 64, bytes missing: 0"),
        ("EARLY_ARRIVAL", {"race", "unwaited bulk copy"}, "shared stages"),
        ("NO_FREE_WAIT", {"race", "wrong mbarrier"}, ""),
        ("TOO_FEW_BYTES", {"deadlock"}, "mbarrier shared full+0, to which 16 bytes more came than expected"),
        ("TOO_MANY_BYTES", {"deadlock"}, "mbarrier shared full+0: arrivals missing: 0, bytes missing: 16"),
        ("NO_EXPECTATION", {"unwaited bulk copy"}, "read of shared stages"),
        ("TWO_ARRIVALS", {"wrong mbarrier"}, "more threads arrive in a phase than it was initialised for"),
        ("ONE_COPY_MORE", {"unwaited bulk copy"}, "ends with 1 bulk copies that no thread waited for"),
        ("NOT_INITIALISED", {"wrong mbarrier"}, "it has not been initialised"),
        ("NO_BARRIER", {"race", "wrong mbarrier"}, ""),
        ("MISALIGNED", {"misaligned access"}, "multiples of 16 bytes"),
        ("PAST_END", {"out of bounds"}, "past the end of x"),
    ],
)
def test_mistakes_with_bulk_copies(order: str, bug: str, kinds: set[str], words: str) -> None:
    device = EmulatedDevice(check=True, order=order, seed=1)
    faults = faults_of(lambda: sum_tiles(device, bug))
    assert faults[0].kind in kinds, faults
    assert any(words in str(fault) for fault in faults)
    lines = lines_of(bug)
    assert not lines or any(fault.at is not None and fault.at.line in lines for fault in faults)


@pytest.mark.parametrize("architecture", ["90", "100"])
def test_the_instructions_for_gpus_assemble(architecture: str) -> None:
    try:
        compiler = Nvrtc()
    except NetcError as error:
        pytest.skip(str(error))
    variants = [
        Variant(expression, str(PLANTED / FILE), expression, THREADS, architecture=ARCHITECTURE)
        for expression in ("sum_tiles<NONE>", "one_waits_for_all")
    ]
    cubin = compile_variants(compiler, variants, architecture)
    assert all(cubin.symbols[variant.expression].encode() in cubin.code for variant in variants)
