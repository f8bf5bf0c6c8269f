"""Matrix products agree with NumPy at the edges of their tiles, for every layout, in every variant."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from netc.backends.cuda.device import Device, Memory, Product
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.gpu import cupy_device
from netc.backends.cuda.products.gemm import TILES, Tile, choose_tile, copied_floats, prepare_gemm
from netc.errors import NetcError
from tests.cuda.arrays import get, put, room
from tests.cuda.rounding import ROUNDED
from tests.cuda.stand_in_cupy import StandInCupy

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

LAYOUTS = [(False, False), (False, True), (True, False), (True, True)]


def check_product(device: EmulatedDevice, tile: Tile, product: Product, skew: int = 0) -> None:
    """Compares a product with one in double precision over the numbers that the kernel multiplies."""
    m, n, k, batch = product.m, product.n, product.k, product.batch
    rng = np.random.default_rng(m + n + k)
    a = rng.standard_normal((batch, k, m) if product.trans_a else (batch, m, k)).astype(np.float32)
    b = rng.standard_normal((batch, n, k) if product.trans_b else (batch, k, n)).astype(np.float32)
    c = rng.standard_normal((batch, m, n)).astype(np.float32)
    bias = rng.standard_normal(m if product.bias == "row" else n).astype(np.float32)
    a_memory, b_memory = put(device, a, "a", skew), put(device, b, "b", skew)
    bias_memory = put(device, bias, "bias") if product.bias else None
    # With beta = 0 nothing may read what C held, so nothing has written it.
    c_memory = put(device, c, "c") if product.beta else room(device, c.size, name="c")
    prepare_gemm(device, product, a_memory, b_memory, c_memory, bias_memory, tile)()
    seen = ROUNDED[tile.math]
    left = seen(a).astype(np.float64).transpose(0, 2, 1) if product.trans_a else seen(a).astype(np.float64)
    right = seen(b).astype(np.float64).transpose(0, 2, 1) if product.trans_b else seen(b).astype(np.float64)
    wanted = product.alpha * (left @ right) + product.beta * c.astype(np.float64)
    if product.bias:
        wanted += bias[:, None] if product.bias == "row" else bias
    if product.relu is not None:
        wanted = np.where(wanted > 0, wanted, product.relu * wanted)
    error = np.abs(get(device, c_memory, (batch, m, n)) - wanted).max()
    assert error <= 2e-6 * max(1.0, np.sqrt(k)) * 8, (tile, product, error)


def shapes_around(tile: Tile) -> list[tuple[int, int, int]]:
    """Tile sizes +- 1 along each axis, several tiles, and shapes of one row, column or step."""
    m, n, k = tile.m, tile.n, tile.k
    return [
        (m, n, k),
        (m - 1, n + 1, k + 1),
        (m + 1, n - 1, k - 1),
        (2 * m + 5, 2 * n + 3, 3 * k + 5),
        (1, n, 1),
        (m, 1, 5 * k),
        (1, 1, 1),
    ]


def tile_name(tile: Tile) -> str:
    return f"{tile.math}-{tile.m}x{tile.n}"


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda pair: "".join("NT"[flag] for flag in pair))
@pytest.mark.parametrize("tile", TILES, ids=tile_name)
def test_products_at_the_edges_of_tiles(fast: EmulatedDevice, tile: Tile, layout: tuple[bool, bool]) -> None:
    for m, n, k in shapes_around(tile):
        check_product(fast, tile, Product(m, n, k, *layout, alpha=1.5, beta=0.5, math=tile.math))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda pair: "".join("NT"[flag] for flag in pair))
@pytest.mark.parametrize("tile", TILES, ids=tile_name)
def test_products_in_check_mode(checked: EmulatedDevice, tile: Tile, layout: tuple[bool, bool]) -> None:
    checked.order, checked.seed = "random", 3
    m, n, k = tile.m + 3, tile.n + 2, 2 * tile.k + 3
    check_product(checked, tile, Product(m, n, k, *layout, math=tile.math))
    # Rows of whole packs, so that four floats are taken at once; a tile for each stage and one more.
    check_product(checked, tile, Product(24, 20, 4 * tile.k, *layout, beta=1, math=tile.math))


@pytest.mark.parametrize("tile", TILES, ids=tile_name)
def test_bias_relu_and_batches_in_one_launch(device: EmulatedDevice, tile: Tile) -> None:
    m, n, k = tile.m // 2 + 1, tile.n // 2 + 3, tile.k + 5
    check_product(device, tile, Product(m, n, k, math=tile.math, batch=3, bias="row", relu=0.25))
    check_product(device, tile, Product(m, n, k, beta=1, math=tile.math, bias="column", relu=0.0))
    check_product(device, tile, Product(m, n, k, math=tile.math, bias="column"))


def test_a_bias_that_was_not_announced_is_refused(fast: EmulatedDevice) -> None:
    a = room(fast, 16)
    with pytest.raises(NetcError, match="bias of a matrix product is not as announced"):
        prepare_gemm(fast, Product(4, 4, 4), a, a, room(fast, 16), bias=a)
    with pytest.raises(NetcError, match="bias of a matrix product is not as announced"):
        prepare_gemm(fast, Product(4, 4, 4, bias="row"), a, a, room(fast, 16))


def test_four_floats_are_copied_at_once_only_where_rows_and_addresses_allow(fast: EmulatedDevice) -> None:
    a, skewed = room(fast, 1024), room(fast, 1024, skew=4)
    assert copied_floats(Product(3, 8, 4, math="tf32"), a, a) == 4
    assert copied_floats(Product(3, 8, 4, trans_a=True, math="tf32"), a, a) == 1
    assert copied_floats(Product(3, 6, 4, math="tf32"), a, a) == 1
    assert copied_floats(Product(3, 8, 4, math="tf32"), skewed, a) == 1
    tile = TILES[-1]
    check_product(fast, tile, Product(16, 16, 16, math="tf32"), skew=4)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("math", ["fp32", "tf32", "bf16", "fp16"])
def test_cublas_is_asked_for_plain_products(monkeypatch: pytest.MonkeyPatch, math: str, batch: int) -> None:
    """The column-major C' = op(B)' op(A)' is the same memory; for 16 bits with fp32 matrices and sums."""
    device, calls = cupy_device_with_cublas(monkeypatch)
    a, b, c = (device.allocate(4 * batch * n, name) for n, name in ((15, "a"), (20, "b"), (12, "c")))
    addresses = {memory.address for memory in (a, b, c)}
    device.gemm(Product(3, 4, 5, trans_a=True, math=math, batch=batch), a, b, c)
    mode, (name, *arguments) = calls
    assert mode == ("setMathMode", 77, 3 if math == "tf32" else 0)
    alpha, beta = (
        i for i, argument in enumerate(arguments) if argument > 1 << 20 and argument not in addresses
    )
    assert (alpha, *arguments[:alpha]) == (6, 77, 0, 1, 4, 3, 5)
    rest = [argument for i, argument in enumerate(arguments) if i > alpha and i != beta]
    if math in ("bf16", "fp16"):
        compute = {"fp16": 74, "bf16": 75}[math]
        wanted = [b.address, 0, 4, 20, a.address, 0, 3, 15, c.address, 0, 4, 12, batch, compute, -1]
        assert (name, rest) == ("gemmStridedBatchedEx", wanted)
    elif batch > 1:
        wanted = [b.address, 4, 20, a.address, 3, 15, c.address, 4, 12, batch]
        assert (name, rest) == ("sgemmStridedBatched", wanted)
    else:
        assert (name, rest) == ("sgemm", [b.address, 4, a.address, 3, c.address, 4])


def test_more_than_a_product_is_one_of_our_own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    device, calls = cupy_device_with_cublas(monkeypatch)
    launched: list[Product] = []

    def prepare(device: Device, product: Product, *memories: Memory | None) -> Callable[[], None]:
        return partial(launched.append, product)

    monkeypatch.setattr(cupy_device, "prepare_gemm", prepare)
    memory = device.allocate(64)
    products = [Product(4, 4, 4, bias="row"), Product(4, 4, 4, relu=0.0)]
    device.gemm(products[0], memory, memory, memory, memory)
    device.gemm(products[1], memory, memory, memory)
    assert launched == products
    assert not calls


def cupy_device_with_cublas(monkeypatch: pytest.MonkeyPatch) -> tuple[Device, list[tuple]]:
    """A device of the stand-in for CuPy, and what it asks of cuBLAS."""
    monkeypatch.setitem(sys.modules, "cupy", StandInCupy())
    calls: list[tuple] = []

    class Cublas:
        CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_DEFAULT_MATH, CUBLAS_TF32_TENSOR_OP_MATH = 0, 1, 0, 3

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *arguments: calls.append((name, *arguments))

    monkeypatch.setattr(cupy_device, "_import_cublas", Cublas)
    return cupy_device.CupyDevice(0), calls


def test_no_steps_scale_what_is_there(device: EmulatedDevice) -> None:
    a, c = put(device, np.zeros(1, np.float32)), put(device, np.ones((2, 3), np.float32))
    device.gemm(Product(2, 3, 0, beta=0.5), a, a, c)
    np.testing.assert_array_equal(get(device, c), np.full(6, 0.5, np.float32))


def test_the_largest_tile_that_occupies_the_device_is_chosen() -> None:
    assert choose_tile(Product(4096, 4096, 64), 132).m == 128
    assert choose_tile(Product(256, 256, 64), 132).m == 64


def test_an_unknown_math_mode_is_refused() -> None:
    with pytest.raises(NetcError, match="math mode") as caught:
        choose_tile(Product(1, 1, 1, math="int4"), 1)
    assert caught.value.expected == "fp32 or tf32 or bf16 or fp16"


def test_memory_too_small_for_its_matrix_is_refused(fast: EmulatedDevice) -> None:
    small = room(fast, 3, name="weights")
    with pytest.raises(NetcError, match="weights is too small"):
        fast.gemm(Product(2, 2, 2), small, room(fast, 4), room(fast, 4))
