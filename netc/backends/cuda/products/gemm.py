"""Matrix products on the device: the table of kernels/gemm.cu, the choice among its rows, and the launch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Argument, Device, Memory, Product
from netc.backends.cuda.launching import Launch
from netc.backends.cuda.tuning.tiles_to_try import worth_trying
from netc.backends.form import Run
from netc.errors import NetcError

WARP = 32
FLOAT_BYTES = 4
COPIED_FLOATS = (4, 1)  # by one cp.async


@dataclass(frozen=True)
class Tile:
    """A block's share of the work.

    m, n, k: rows, columns and steps of a tile; inner_m, inner_n: rows and columns of a thread for "fp32", of
    a warp otherwise; stages: the tiles under way at once.
    """

    math: str
    m: int
    n: int
    k: int
    inner_m: int
    inner_n: int
    stages: int = 2

    @property
    def threads(self) -> int:
        each = 1 if self.math == "fp32" else WARP
        return (self.m // self.inner_m) * (self.n // self.inner_n) * each

    def shared_bytes(self, trans_a: bool, trans_b: bool) -> int:
        """Dynamic shared memory: gemm.cu's OperandTile, for all stages; the other kernels' is static."""
        if self.math != "tf32":
            return 0
        a = self.k * (self.m + 8) if trans_a else self.m * (self.k + 4)
        b = self.n * (self.k + 4) if trans_b else self.k * (self.n + 8)
        return self.stages * (a + b) * FLOAT_BYTES


TILES = (
    Tile("fp32", 128, 128, 8, 8, 8),
    Tile("fp32", 64, 64, 16, 4, 4),
    Tile("tf32", 128, 128, 16, 64, 32, stages=3),
    Tile("tf32", 64, 64, 16, 32, 32, stages=3),
    Tile("bf16", 128, 128, 32, 64, 32),
    Tile("bf16", 64, 64, 32, 32, 32),
    Tile("fp16", 128, 128, 32, 64, 32),
    Tile("fp16", 64, 64, 32, 32, 32),
)


def _variant(tile: Tile, trans_a: bool, trans_b: bool, copied: int) -> Variant:
    layouts = f"{str(trans_a).lower()}, {str(trans_b).lower()}"
    sizes = f"{tile.m}, {tile.n}, {tile.k}, {tile.inner_m}, {tile.inner_n}"
    name = f"gemm {tile.math} {tile.m}x{tile.n} {'T' if trans_a else 'N'}{'T' if trans_b else 'N'}"
    if tile.math == "fp32":
        return Variant(name, "gemm.cu", f"gemm_simt<{sizes}, {layouts}>", tile.threads)
    if tile.math != "tf32":
        expression = f"gemm_narrow<{tile.math}, {sizes}, {layouts}>"
        return Variant(name, "gemm.cu", expression, tile.threads, architecture=80)
    return Variant(
        f"{name} copy {copied}",
        "gemm.cu",
        f"gemm_tf32<{sizes}, {tile.stages}, {layouts}, {copied}>",
        tile.threads,
        tile.shared_bytes(trans_a, trans_b),
        architecture=80,
    )


VARIANTS = {
    (tile, trans_a, trans_b, copied): _variant(tile, trans_a, trans_b, copied)
    for tile in TILES
    for trans_a in (False, True)
    for trans_b in (False, True)
    for copied in (COPIED_FLOATS if tile.math == "tf32" else (1,))
}


def choose_tile(product: Product, processors: int) -> Tile:
    """The largest tile of which there are enough to occupy the device; the smallest where none has."""
    tiles = [tile for tile in TILES if tile.math == product.math]
    if not tiles:
        raise NetcError(
            "there is no matrix product in this math mode",
            expected=" or ".join(dict.fromkeys(tile.math for tile in TILES)),
            found=product.math,
        )
    enough = (tile for tile in tiles if blocks_of(product, tile) * product.batch >= processors)
    return next(enough, tiles[-1])


def blocks_of(product: Product, tile: Tile) -> int:
    """How many tiles one matrix C has."""
    return -(-product.m // tile.m) * -(-product.n // tile.n)


def is_packed(memory: Memory, columns: int) -> bool:
    """Whether every row of a matrix begins at a multiple of 16 bytes and is a multiple of them."""
    return memory.address % (COPIED_FLOATS[0] * FLOAT_BYTES) == 0 and columns % COPIED_FLOATS[0] == 0


def copied_floats(product: Product, a: Memory, b: Memory) -> int:
    """How many floats of a row can be copied at once: 4 where all rows begin at multiples of 16 bytes."""
    return COPIED_FLOATS[0] if all(_packed_factors(product, a, b)) else COPIED_FLOATS[1]


def tiles_for(device: Device, product: Product) -> list[Tile]:
    """All that a tuner should try, of which the first should be fastest; none where the device has none."""
    processors, architecture = device.properties.processors, device.properties.architecture
    rule = choose_tile(product, processors)
    tiles = [tile for tile in TILES if tile.math == product.math]
    others = worth_trying(tiles, product.m, product.n, product.batch, processors)
    return [
        tile
        for tile in dict.fromkeys((rule, *others))
        if VARIANTS[tile, product.trans_a, product.trans_b, 1].runs_on(architecture)
    ]


def prepare_gemm(
    device: Device,
    product: Product,
    a: Memory,
    b: Memory,
    c: Memory,
    bias: Memory | None = None,
    tile: Tile | None = None,
) -> Run:
    """A product by one of netc's own kernels, to be run again and again; `tile` overrides the choice."""
    m, n, k = product.m, product.n, product.k
    for memory, rows, columns in ((a, m, k), (b, k, n), (c, m, n)):
        _check_room(memory, product.batch * rows, columns)
    row_bias, column_bias = _biases(product, bias)
    if m == 0 or n == 0 or product.batch == 0:
        return lambda: None
    tile = tile or choose_tile(product, device.properties.processors)
    copied = copied_floats(product, a, b) if tile.math == "tf32" else 1
    slope = 1.0 if product.relu is None else product.relu
    arguments: list[Argument] = [np.int32(m), np.int32(n), np.int32(k)]
    arguments += [np.float32(product.alpha), a, b, np.float32(product.beta), c]
    arguments += [row_bias, column_bias, np.float32(slope)]
    if tile.math in ("bf16", "fp16"):
        arguments += map(np.bool_, _packed_factors(product, a, b))
    variant = VARIANTS[tile, product.trans_a, product.trans_b, copied]
    return Launch.of(device, variant, (blocks_of(product, tile), product.batch), arguments)


def _packed_factors(product: Product, a: Memory, b: Memory) -> tuple[bool, bool]:
    """Whether A and B can be read 16 bytes at once."""
    row_of_a = product.m if product.trans_a else product.k
    row_of_b = product.k if product.trans_b else product.n
    return is_packed(a, row_of_a), is_packed(b, row_of_b)


def _biases(product: Product, bias: Memory | None) -> tuple[Memory | None, Memory | None]:
    """The bias of rows and that of columns. Raises NetcError where it is not the one that is announced."""
    sizes = {"row": product.m, "column": product.n}
    if (product.bias is None) != (bias is None) or product.bias not in (None, *sizes):
        raise NetcError(
            "the bias of a matrix product is not as announced",
            expected="memory where Product.bias is 'row' or 'column', None where it is None",
            found=f"{product.bias!r} and {bias.name if bias else None}",
        )
    if bias is None or product.bias is None:
        return None, None
    _check_room(bias, 1, sizes[product.bias])
    return (bias, None) if product.bias == "row" else (None, bias)


def _check_room(memory: Memory, rows: int, columns: int) -> None:
    if memory.nbytes < rows * columns * FLOAT_BYTES:
        raise NetcError(
            f"{memory.name} is too small for its matrix",
            expected=f"{rows} x {columns} floats",
            found=f"{memory.nbytes:,} bytes",
        )
