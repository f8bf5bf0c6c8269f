"""Every way that a matrix product may be run in is right, with what follows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.device import Product
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.products import choice as product_choice
from netc.backends.cuda.products import dense
from netc.backends.cuda.products.choice import choose_product, ways_of
from netc.backends.cuda.products.gemm import tiles_for
from netc.backends.cuda.tuning import timings
from netc.backends.form import Mode
from tests.cuda.arrays import get, put
from tests.cuda.clocked import ClockedDevice
from tests.cuda.one_chain import OneChain, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

# All with the same results but for beta, bias and ReLU.
PRODUCTS = (
    Product(70, 9, 20),
    Product(70, 9, 20, trans_a=True, beta=1),
    Product(70, 9, 20, trans_b=True, bias="column"),
    Product(70, 9, 20, bias="row", relu=0.25),
    Product(70, 9, 20, relu=0),
)


@pytest.mark.parametrize("product", PRODUCTS)
def test_every_way_gives_the_same(fast: EmulatedDevice, product: Product) -> None:
    a, b, c = drawn(70, 20), drawn(20, 9, seed=1), drawn(70, 9, seed=2)
    bias = {"row": drawn(70, seed=3), "column": drawn(9, seed=3), None: None}[product.bias]
    wanted = a @ b + product.beta * c
    if bias is not None:
        wanted += bias[:, None] if product.bias == "row" else bias
    if product.relu is not None:
        wanted = np.where(wanted > 0, wanted, np.float32(product.relu) * wanted)
    ways = ways_of(fast, product)
    assert len(ways) == 3  # two tiles, and the library
    for name, bind in ways.items():
        target = put(fast, c, "c")
        factors = [put(fast, np.ascontiguousarray(a.T) if product.trans_a else a, "a")]
        factors += [put(fast, np.ascontiguousarray(b.T) if product.trans_b else b, "b")]
        bind(*factors, target, None if bias is None else put(fast, bias, "bias"))()
        found = get(fast, target, (70, 9))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_library_comes_first_where_a_product_is_all(fast: EmulatedDevice) -> None:
    assert [next(iter(ways_of(fast, product))) for product in PRODUCTS[:3]] == [
        "library",
        "library",
        "128x128",
    ]


def test_tiles_are_those_of_the_mode_that_the_device_has(
    fast: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Product(4096, 4096, 20, math="tf32")
    assert [(tile.m, tile.math) for tile in tiles_for(fast, large)] == [(128, "tf32"), (64, "tf32")]
    assert [tile.m for tile in tiles_for(fast, replace(large, m=1, n=1))] == [128, 64]  # on one processor
    monkeypatch.setattr(fast, "properties", replace(fast.properties, architecture=75, processors=132))
    assert tiles_for(fast, large) == []
    assert list(ways_of(fast, replace(large, bias="row"))) == ["library, rest apart"]
    assert [tile.m for tile in tiles_for(fast, Product(1, 1, 20))] == [64]


def test_the_fastest_way_runs_and_touches_nothing_else(clocked: ClockedDevice) -> None:
    before = clocked.free_bytes()
    product = Product(5, 6, 7, beta=1)
    bind = choose_product(clocked, Mode(), product)
    assert clocked.free_bytes() == before
    a, b, c = drawn(5, 7), drawn(7, 6), drawn(5, 6)
    target = put(clocked, c)
    bind(put(clocked, a), put(clocked, b), target, None)()
    np.testing.assert_allclose(get(clocked, target, (5, 6)), a @ b + c, rtol=1e-5, atol=1e-6)
    (work,) = timings.Timings(clocked.properties)._read()
    assert work == str(product)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("transposed", [False, True])
def test_an_inner_product_is_right_whatever_is_chosen(
    fast: EmulatedDevice, monkeypatch: pytest.MonkeyPatch, transposed: bool, place: int
) -> None:
    made = []

    def choose(device: Any, mode: Mode, work: str, ways: Mapping[str, Any], sizes: Any) -> str:
        made.append(list(ways)[place])
        return made[-1]

    monkeypatch.setattr(product_choice, "choose", choose)
    text = (
        'type: "InnerProduct" inner_product_param { num_output: 9 transpose: '
        + str(transposed).lower()
        + " }"
    )
    relu = 'type: "ReLU" bottom: "s" top: "s"'
    params = [drawn(*((20, 9) if transposed else (9, 20)), seed=1), drawn(9, seed=2)]
    chain = dense.FORMS["InnerProduct", "ReLU"]
    OneChain(fast, chain, [text, relu], drawn(130, 20), params=params).check(drawn(130, 9, seed=3), atol=1e-5)
    assert len(made) == 3
