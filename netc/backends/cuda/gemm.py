"""Matrix products on the device: the table of kernels/gemm.cu, the choice among its rows, and the launch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netc.backends.cuda.device import Argument, Device, Product
from netc.backends.cuda.kernel import Variant
from netc.backends.cuda.memory import Memory
from netc.errors import NetcError

WARP = 32
FLOAT_BYTES = 4
COPIED_FLOATS = (4, 1)  # by one cp.async


@dataclass(frozen=True)
class Tile:
    """A block's share of the work.

    m, n, k: rows, columns and steps of a tile; inner_m, inner_n: rows and columns of a thread for "fp32", of
    a warp for "tf32"; stages: the tiles under way at once.
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
        """Dynamic shared memory: gemm.cu's OperandTile, for all stages."""
        if self.math == "fp32":
            return 0
        a = self.k * (self.m + 8) if trans_a else self.m * (self.k + 4)
        b = self.n * (self.k + 4) if trans_b else self.k * (self.n + 8)
        return self.stages * (a + b) * FLOAT_BYTES


TILES = (
    Tile("fp32", 128, 128, 8, 8, 8),
    Tile("fp32", 64, 64, 16, 4, 4),
    Tile("tf32", 128, 128, 16, 64, 32, stages=3),
    Tile("tf32", 64, 64, 16, 32, 32, stages=3),
)


def _variant(tile: Tile, trans_a: bool, trans_b: bool, copied: int) -> Variant:
    layouts = f"{str(trans_a).lower()}, {str(trans_b).lower()}"
    sizes = f"{tile.m}, {tile.n}, {tile.k}, {tile.inner_m}, {tile.inner_n}"
    name = f"gemm {tile.math} {tile.m}x{tile.n} {'T' if trans_a else 'N'}{'T' if trans_b else 'N'}"
    if tile.math == "fp32":
        return Variant(name, "gemm.cu", f"gemm_simt<{sizes}, {layouts}>", tile.threads)
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
            expected=" or ".join(sorted({tile.math for tile in TILES})),
            found=product.math,
        )
    enough = (tile for tile in tiles if -(-product.m // tile.m) * -(-product.n // tile.n) >= processors)
    return next(enough, tiles[-1])


def copied_floats(product: Product, a: Memory, b: Memory) -> int:
    """How many floats of a row can be copied at once: 4 where all rows begin at multiples of 16 bytes."""
    row_of_a = product.m if product.trans_a else product.k
    row_of_b = product.k if product.trans_b else product.n
    most = COPIED_FLOATS[0]
    aligned = all(memory.address % (most * FLOAT_BYTES) == 0 for memory in (a, b))
    return most if aligned and row_of_a % most == 0 and row_of_b % most == 0 else 1


def launch_gemm(
    device: Device, product: Product, a: Memory, b: Memory, c: Memory, tile: Tile | None = None
) -> None:
    """Computes a product with one of netc's own kernels; `tile` overrides the choice."""
    m, n, k = product.m, product.n, product.k
    for memory, rows, columns in ((a, m, k), (b, k, n), (c, m, n)):
        if memory.nbytes < rows * columns * FLOAT_BYTES:
            raise NetcError(
                f"{memory.name} is too small for its matrix",
                expected=f"{rows} x {columns} floats",
                found=f"{memory.nbytes:,} bytes",
            )
    if m == 0 or n == 0:
        return
    tile = tile or choose_tile(product, device.properties.processors)
    copied = copied_floats(product, a, b) if tile.math == "tf32" else 1
    kernel = device.load(VARIANTS[tile, product.trans_a, product.trans_b, copied])
    blocks = -(-m // tile.m) * -(-n // tile.n)
    arguments: list[Argument] = [np.int32(m), np.int32(n), np.int32(k)]
    arguments += [np.float32(product.alpha), a, b, np.float32(product.beta), c]
    device.launch(kernel, (blocks,), (tile.threads,), arguments)
