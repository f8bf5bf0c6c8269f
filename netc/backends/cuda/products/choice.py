"""How a matrix product and what follows it run: by the library or by netc's kernels, whichever is faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from netc.backends.cuda.device import Device, Memory, Product
from netc.backends.cuda.launching import in_order
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES
from netc.backends.cuda.layers.scale import NO_RELU, scale
from netc.backends.cuda.products.gemm import Tile, prepare_gemm, tiles_for
from netc.backends.cuda.tuning import choose
from netc.backends.form import Mode, Run

Bind = Callable[[Memory, Memory, Memory, Memory | None], Run]  # to A, B, C and the bias


def choose_product(device: Device, mode: Mode, product: Product) -> Bind:
    """What binds the product to its matrices."""
    ways = ways_of(device, product)
    numbers = {
        "a": product.batch * product.m * product.k,
        "b": product.batch * product.k * product.n,
        "c": product.batch * product.m * product.n,
        "bias": {None: 0, "row": product.m, "column": product.n}[product.bias],
    }
    sizes = {name: number * FLOAT_BYTES for name, number in numbers.items() if number}

    def bound(bind: Bind, memories: Mapping[str, Memory]) -> Run:
        return bind(memories["a"], memories["b"], memories["c"], memories.get("bias"))

    timed = {name: partial(bound, bind) for name, bind in ways.items()}
    return ways[choose(device, mode, str(product), timed, sizes)]


def ways_of(device: Device, product: Product) -> dict[str, Bind]:
    """The ways by name, the one first that should be fastest: the library's where a product is all."""

    def own(tile: Tile) -> Bind:
        return lambda a, b, c, bias: prepare_gemm(device, product, a, b, c, bias, tile)

    tiles = {f"{tile.m}x{tile.n}": own(tile) for tile in tiles_for(device, product)}
    if product.bias is None and product.relu is None:
        return {"library": partial(device.bind_gemm, product), **tiles}
    return {**tiles, "library, rest apart": partial(_apart, device, product)}


def _apart(device: Device, product: Product, a: Memory, b: Memory, c: Memory, bias: Memory | None) -> Run:
    """The product by the library, then the bias and the ReLU in place."""
    channels, inner = (product.m, product.n) if product.bias == "row" else (product.n, 1)
    slope = NO_RELU if product.relu is None else product.relu
    return in_order(
        device.bind_gemm(replace(product, bias=None, relu=None), a, b, c),
        scale(device, channels, inner, c, c, bias=bias, slope=slope),
    )
