"""Matrix products agree with NumPy at the edges of their tiles, for every layout, in every variant."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cuda.device import Product
from netc.backends.cuda.emulated_device import EmulatedDevice
from netc.backends.cuda.gemm import TILES, Tile, choose_tile, copied_floats, launch_gemm
from netc.errors import NetcError
from tests.cuda.arrays import get, put, room

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

LAYOUTS = [(False, False), (False, True), (True, False), (True, True)]


def tf32(x: np.ndarray) -> np.ndarray:
    """Rounded to 10 bits of mantissa, ties away from zero, as the tensor cores take it."""
    return ((x.view(np.uint32) + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)


def check_product(device: EmulatedDevice, tile: Tile, product: Product, skew: int = 0) -> None:
    """Compares a product with one in double precision over the numbers that the kernel multiplies."""
    m, n, k = product.m, product.n, product.k
    rng = np.random.default_rng(m + n + k)
    a = rng.standard_normal((k, m) if product.trans_a else (m, k)).astype(np.float32)
    b = rng.standard_normal((n, k) if product.trans_b else (k, n)).astype(np.float32)
    c = rng.standard_normal((m, n)).astype(np.float32)
    a_memory, b_memory = put(device, a, "a", skew), put(device, b, "b", skew)
    # With beta = 0 nothing may read what C held, so nothing has written it.
    c_memory = put(device, c, "c") if product.beta else room(device, m * n, name="c")
    launch_gemm(device, product, a_memory, b_memory, c_memory, tile)
    seen = tf32 if tile.math == "tf32" else np.asarray
    left = (seen(a).T if product.trans_a else seen(a)).astype(np.float64)
    right = (seen(b).T if product.trans_b else seen(b)).astype(np.float64)
    wanted = product.alpha * (left @ right) + product.beta * c.astype(np.float64)
    error = np.abs(get(device, c_memory, (m, n)) - wanted).max()
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
    # Rows of whole packs, so that tf32 copies four floats at once; a tile for each stage and one more.
    check_product(checked, tile, Product(24, 20, 4 * tile.k, *layout, beta=1, math=tile.math))


def test_four_floats_are_copied_at_once_only_where_rows_and_addresses_allow(fast: EmulatedDevice) -> None:
    a, skewed = room(fast, 1024), room(fast, 1024, skew=4)
    assert copied_floats(Product(3, 8, 4, math="tf32"), a, a) == 4
    assert copied_floats(Product(3, 8, 4, trans_a=True, math="tf32"), a, a) == 1
    assert copied_floats(Product(3, 6, 4, math="tf32"), a, a) == 1
    assert copied_floats(Product(3, 8, 4, math="tf32"), skewed, a) == 1
    tile = TILES[-1]
    check_product(fast, tile, Product(16, 16, 16, math="tf32"), skew=4)


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
    assert caught.value.expected == "fp32 or tf32"


def test_memory_too_small_for_its_matrix_is_refused(fast: EmulatedDevice) -> None:
    small = room(fast, 3, name="weights")
    with pytest.raises(NetcError, match="weights is too small"):
        fast.gemm(Product(2, 2, 2), small, room(fast, 4), room(fast, 4))
