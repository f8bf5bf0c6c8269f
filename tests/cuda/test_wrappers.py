"""The wrappers of netc.cuh do what their GPU instructions are defined to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.emulator import EmulatedDevice
from netc.errors import NetcError
from tests.cuda.arrays import get, put, room
from tests.cuda.rounding import ROUNDED
from tests.cuda.wgmma_tiles import as_tiles

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

FILE = str(Path(__file__).resolve().parent / "wrappers.cu")


def launch(device: EmulatedDevice, expression: str, threads: int, *arguments: object) -> None:
    kernel = device.load(Variant(expression, FILE, expression, threads))
    device.launch(kernel, (1,), (threads,), arguments)  # type: ignore[arg-type]


def to_bf16(x: np.ndarray) -> np.ndarray:
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(kind: str, x: np.ndarray) -> np.ndarray:
    """The bits of x as fp16 or bf16."""
    return x.astype(np.float16).view(np.uint16) if kind == "fp16" else to_bf16(x)


def widen(kind: str, bits: np.ndarray) -> np.ndarray:
    return bits.view(np.float16).astype(np.float32) if kind == "fp16" else from_bf16(bits)


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_matrices_of_16_bits(device: EmulatedDevice, kind: str) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 16), (16, 8)))
    d = room(device, 128)
    launch(device, f"multiply_matrices<{kind}>", 32, put(device, a), put(device, b), d)
    wanted = widen(kind, narrow(kind, a)) @ widen(kind, narrow(kind, b))
    np.testing.assert_allclose(get(device, d, (16, 8)), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "a_k_is_row", "b_k_is_row"),
    [
        ("tf32", False, False),
        *(
            (kind, *rows)
            for kind in ("bf16", "fp16")
            for rows in ((False, False), (True, False), (False, True))
        ),
    ],
)
def test_fragments_of_tiles(device: EmulatedDevice, kind: str, a_k_is_row: bool, b_k_is_row: bool) -> None:
    rng = np.random.default_rng(0)
    # What tf32 does not round by itself is not given to it.
    a, b = (ROUNDED[kind](rng.standard_normal((16, 16)).astype(np.float32)) for _ in range(2))
    number = "float" if kind == "tf32" else kind
    d = room(device, 256)
    layouts = f"{str(a_k_is_row).lower()}, {str(b_k_is_row).lower()}"
    launch(device, f"multiply_fragments<{number}, {layouts}>", 32, put(device, a), put(device, b), d)
    np.testing.assert_allclose(get(device, d, (16, 16)), a @ b, rtol=1e-5, atol=1e-5)


def launch_on_sm_90a(device: EmulatedDevice, expression: str, *arguments: object) -> None:
    """Four warps."""
    if device.properties.architecture != 90:
        pytest.skip("wgmma needs sm_90a")
    variant = Variant(expression, FILE, expression, 128, architecture=90, specific=True)
    device.launch(device.load(variant), (1,), (128,), arguments)  # type: ignore[arg-type]


def factors(kind: str, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """64 and so many rows of 128 bytes, rounded."""
    rng, k = np.random.default_rng(0), 32 if kind == "tf32" else 64
    a, b = (ROUNDED[kind](rng.standard_normal((n, k)).astype(np.float32)) for n in (64, columns))
    return a, b


def number_of(kind: str) -> str:
    return "float" if kind == "tf32" else kind


@pytest.mark.parametrize("columns", [128, 256])
@pytest.mark.parametrize("kind", ["tf32", "bf16", "fp16"])
def test_products_by_four_warps(device: EmulatedDevice, kind: str, columns: int) -> None:
    (a, b), d = factors(kind, columns), room(device, 64 * columns)
    kernel = f"multiply_by_four_warps<{number_of(kind)}, {columns}, false>"
    launch_on_sm_90a(device, kernel, put(device, a), put(device, b), d)
    np.testing.assert_allclose(get(device, d, (64, columns)), a @ b.T, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("columns", [128, 256])
@pytest.mark.parametrize("kind", ["tf32", "bf16", "fp16"])
def test_products_of_tiles_that_a_bulk_copy_brings(device: EmulatedDevice, kind: str, columns: int) -> None:
    (a, b), d = factors(kind, columns), room(device, 64 * columns)
    given = (a, b) if kind == "tf32" else (narrow(kind, a), narrow(kind, b))
    kernel = f"multiply_brought_tiles<{number_of(kind)}, {columns}>"
    launch_on_sm_90a(device, kernel, *(put(device, as_tiles(rows)) for rows in given), d)
    np.testing.assert_allclose(get(device, d, (64, columns)), a @ b.T, rtol=1e-5, atol=2e-5)


def test_a_tile_that_is_overwritten_before_its_product_is_done_is_a_race(checked: EmulatedDevice) -> None:
    a, b = (put(checked, np.zeros((n, 64), np.float32)) for n in (64, 128))
    with pytest.raises(NetcError, match=r"race: .* overwrites what was read from shared a_tile"):
        launch_on_sm_90a(checked, "multiply_by_four_warps<bf16, 128, true>", a, b, room(checked, 64 * 128))


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_pairs_are_rounded_with_the_first_in_the_lower_half(device: EmulatedDevice, kind: str) -> None:
    x = np.random.default_rng(0).standard_normal(32).astype(np.float32)
    x[:4] = [np.inf, -0.0, 1 + 2.0**-8, 1e30]  # the last one is too large for fp16
    y = room(device, 16, np.uint32)
    launch(device, f"round_pairs<{kind}>", 32, np.int32(16), put(device, x), y)
    with np.errstate(over="ignore"):
        wanted = narrow(kind, x)
    np.testing.assert_array_equal(get(device, y, dtype=np.uint16), wanted)


def test_one_matrix_is_loaded_by_eight_lanes_addresses(device: EmulatedDevice) -> None:
    x = np.arange(64, dtype=np.uint16)
    y = room(device, 32, np.uint32)
    launch(device, "load_one_matrix", 32, put(device, x), y)
    np.testing.assert_array_equal(get(device, y, dtype=np.uint32), x.view(np.uint32))


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_narrow_numbers_are_rounded_to_nearest_even(device: EmulatedDevice, kind: str) -> None:
    ulp = 2.0**-7 if kind == "bf16" else 2.0**-10
    x = np.array([0, -0.0, 1, 1 + ulp / 2, 1 + 1.5 * ulp, 3.3, -1e-5, 6e4, np.inf, -np.inf], np.float32)
    bits, y = room(device, len(x), np.uint16), room(device, len(x))
    launch(device, f"round_trip<{kind}>", 32, np.int32(len(x)), put(device, x), bits, y)
    np.testing.assert_array_equal(get(device, bits, dtype=np.uint16), narrow(kind, x))
    np.testing.assert_array_equal(get(device, y), widen(kind, narrow(kind, x)))


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_a_narrow_nan_stays_one(device: EmulatedDevice, kind: str) -> None:
    x = np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    bits, y = room(device, 2, np.uint16), room(device, 2)
    launch(device, f"round_trip<{kind}>", 32, np.int32(2), put(device, x), bits, y)
    assert np.isnan(get(device, y)).all()


def test_tf32_is_rounded_to_nearest_with_ties_away(device: EmulatedDevice) -> None:
    ulp = 2.0**-10
    x = np.array([1, 1 + ulp / 2, 1 + 0.49 * ulp, -1 - ulp / 2, np.inf, 0], np.float32)
    y = room(device, len(x))
    launch(device, "round_to_tf32", 32, np.int32(len(x)), put(device, x), y)
    np.testing.assert_array_equal(get(device, y), np.float32([1, 1 + ulp, 1, -1 - ulp, np.inf, 0]))


# Counter, key and result, published with the generator (Random123's kat_vectors).
KNOWN_ANSWERS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "wanted"), KNOWN_ANSWERS)
def test_philox_of_32_bits(device: EmulatedDevice, counter: list, key: list, wanted: list) -> None:
    y = room(device, 4, np.uint32)
    keys = [np.uint32(word) for word in key]
    launch(device, "draw<unsigned>", 1, put(device, np.array(counter, np.uint32)), *keys, y)
    np.testing.assert_array_equal(get(device, y, dtype=np.uint32), wanted)


def test_philox_of_64_bits_is_numpys(device: EmulatedDevice) -> None:
    key, draw = [0x0123456789ABCDEF, 77], 5
    wanted = np.random.Philox(key=key, counter=[0, draw, 0, 0]).random_raw(4 * 32)
    counters = np.array([[i + 1, draw, 0, 0] for i in range(32)], np.uint64)
    y = room(device, 4 * 32, np.uint64)
    launch(device, "draw<uint64>", 32, put(device, counters), np.uint64(key[0]), np.uint64(key[1]), y)
    np.testing.assert_array_equal(get(device, y, dtype=np.uint64), wanted)


@pytest.mark.parametrize("order", ["forward", "backward", "random"])
def test_warp_functions(device: EmulatedDevice, order: str) -> None:
    device.order = order
    x, lane = np.arange(32, dtype=np.int32) * 3 % 32, np.arange(32)
    y = room(device, 32 * 10, np.int32)
    launch(device, "exchange", 32, put(device, x), y)
    down_in_half = np.where(lane % 16 < 12, lane + 4, lane)
    votes = int(((x % 3 == 0).astype(np.int64) << lane).sum())
    wanted = [
        np.full(32, x[5]),
        x[lane // 8 * 8 + 1],
        x[lane ^ 3],
        x[np.where(lane < 28, lane + 4, lane)],
        x[np.where(lane >= 4, lane - 4, lane)],
        x[down_in_half],
        np.full(32, votes, np.uint32).view(np.int32),
        np.full(32, 1),
        np.full(32, 1),
        np.full(32, x.sum()),
    ]
    np.testing.assert_array_equal(get(device, y, (10, 32), np.int32), wanted)


def test_block_functions(device: EmulatedDevice) -> None:
    x = np.random.default_rng(0).integers(-50, 50, 256).astype(np.int32)
    y = put(device, np.zeros(4, np.int32))
    launch(device, "count_in_block", 256, put(device, x), y)
    positive = int((x > 0).sum())
    np.testing.assert_array_equal(get(device, y, dtype=np.int32), [positive, 1, positive, x.max()])
