"""Eltwise, Split and the fused ReLU agree with their layers, for every number of arrays and at every edge."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.launching.elementwise import THREADS
from netc.backends.cuda.layers import eltwise, split
from netc.backends.form import Mode
from tests.cuda.one_chain import OneChain, chain_of, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

COUNTS = (1, 3, 4, 5, 4 * THREADS - 1, 4 * THREADS + 1, 70_003)
MAKE = eltwise.FORMS["Eltwise",]
SUM, PRODUCT, MAXIMUM, STABLE = (
    f'type: "Eltwise" eltwise_param {{ {options} }}'
    for options in ("", "operation: PROD stable_prod_grad: false", "operation: MAX", "operation: PROD")
)
WEIGHTED = 'type: "Eltwise" eltwise_param { coeff: 0.5 coeff: -2 coeff: 1 }'
RELU = 'type: "ReLU" bottom: "s" top: "s"'


def operands(count: int, number: int) -> list[np.ndarray]:
    """Arrays with ties among them, none of them near 0."""
    random = np.random.default_rng(count)
    return [np.float32(random.choice([-1.5, -1, -0.5, 0.5, 1, 2], count)) for _ in range(number)]


@pytest.mark.parametrize("count", COUNTS)
def test_sums_at_every_edge(fast: EmulatedDevice, count: int) -> None:
    OneChain(fast, MAKE, SUM, drawn(count), drawn(count, seed=1)).check(drawn(count, seed=2))


@pytest.mark.parametrize("skew", [0, 4])
@pytest.mark.parametrize("text", [SUM, WEIGHTED, PRODUCT, STABLE, MAXIMUM])
def test_operations_in_check_mode(checked: EmulatedDevice, text: str, skew: int) -> None:
    checked.order, checked.seed = "random", 5
    OneChain(checked, MAKE, text, *operands(133, 3), skew=skew).check(drawn(133))


@pytest.mark.parametrize("number", [2, 8, 9, 17])
@pytest.mark.parametrize("text", [SUM, PRODUCT, STABLE, MAXIMUM])
def test_many_bottoms(fast: EmulatedDevice, text: str, number: int) -> None:
    if text == MAXIMUM and number > 8:
        assert MAKE(chain_of(text, *[(3,)] * number), Mode(), fast) is None
        return
    OneChain(fast, MAKE, text, *operands(1030, number)).check(drawn(1030))


@pytest.mark.parametrize("text", [WEIGHTED, PRODUCT, MAXIMUM])
def test_gradients_that_nobody_wants_are_left_out(checked: EmulatedDevice, text: str) -> None:
    OneChain(checked, MAKE, text, *operands(37, 3), wanted=[False, True, False]).check(drawn(37))


def test_the_maximum_of_nan_is_nan(fast: EmulatedDevice) -> None:
    nan = np.float32(np.nan)
    form = OneChain(fast, MAKE, MAXIMUM, [nan, 1, 1, 2], [0, nan, 1, 2], [0, 0, nan, 2])
    np.testing.assert_array_equal(form.forward()[0], [nan, nan, nan, 2])


@pytest.mark.parametrize("slope", [0, 0.25])
@pytest.mark.parametrize("number", [2, 3, 9])
def test_a_relu_rides_along(device: EmulatedDevice, number: int, slope: float) -> None:
    relu = f"{RELU} relu_param {{ negative_slope: {slope} }}"
    inputs = [drawn(2, 5, 7, seed=i) for i in range(number)]
    make = eltwise.FORMS["Eltwise", "ReLU"]
    OneChain(device, make, [SUM, relu], *inputs).check(drawn(2, 5, 7, seed=9))


def test_a_fused_relu_of_infinity_and_nan(fast: EmulatedDevice) -> None:
    x, zero = np.array([np.inf, -np.inf, np.nan], np.float32), np.zeros(3, np.float32)
    form = OneChain(fast, eltwise.FORMS["Eltwise", "ReLU"], [SUM, RELU], x, zero)
    np.testing.assert_array_equal(form.forward()[0], [np.inf, 0, np.nan])


def test_in_place_gradients_are_left_to_the_layer(fast: EmulatedDevice) -> None:
    text = 'type: "Eltwise" bottom: "x0" bottom: "x1" top: "x0"'
    assert MAKE(chain_of(text, (3,), (3,)), Mode(), fast) is None


CHAIN = """
layer { name: "sum" type: "Eltwise" bottom: "x0" bottom: "x1" top: "sum" }
layer { name: "relu" type: "ReLU" bottom: "sum" top: "%s" relu_param { negative_slope: %g } }
layer { name: "a" type: "%s" bottom: "%s" top: "%s" }
"""


@pytest.mark.parametrize(("top", "slope", "reader", "written", "fits"), [
    ("y", 0.5, "TanH", "z", True),
    ("y", 0.5, "TanH", "y", False),  # the ReLU's output is gone when backward needs its sign
    ("sum", 0.5, "TanH", "sum", True),  # so it is in Caffe
    ("y", -0.5, "TanH", "z", False),  # the output does not tell the sign
    ("y", 0.5, "Flatten", "z", True),
])  # fmt: skip
def test_a_relu_rides_along_only_where_its_output_stays(
    fast: EmulatedDevice, top: str, slope: float, reader: str, written: str, fits: bool
) -> None:
    nodes = chain_of(CHAIN % (top, slope, reader, top, written), (2, 3), (2, 3))
    form = eltwise.FORMS["Eltwise", "ReLU"](nodes[:2], Mode(), fast)
    assert (form is not None) == fits


@pytest.mark.parametrize("number", [1, 2, 3, 8, 11])
def test_split_adds_up_the_gradients(device: EmulatedDevice, number: int) -> None:
    tops = " ".join(f'top: "y{i}"' for i in range(number))
    form = OneChain(device, split.FORMS["Split",], f'type: "Split" {tops}', drawn(3, 43))
    form.check(*(drawn(3, 43, seed=i) for i in range(number)))


def test_split_passes_over_gradients_that_nobody_gives(device: EmulatedDevice) -> None:
    text = 'type: "Split" top: "a" top: "b" top: "c"'
    OneChain(device, split.FORMS["Split",], text, drawn(9)).check(drawn(9, seed=1), None, drawn(9, seed=2))
    OneChain(device, split.FORMS["Split",], text, drawn(9)).check(None, None, None)
