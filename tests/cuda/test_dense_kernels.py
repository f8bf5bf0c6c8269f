"""InnerProduct agrees with its layer: transposed or not, over any axis, with bias and ReLU, in every mode."""

from __future__ import annotations

from itertools import product

import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.products import dense
from netc.backends.form import Mode
from tests.cuda.one_chain import OneChain, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

PLAIN, FUSED = dense.FORMS["InnerProduct",], dense.FORMS["InnerProduct", "ReLU"]


def text_of(outputs: int, options: str = "") -> str:
    return f'type: "InnerProduct" inner_product_param {{ num_output: {outputs} {options} }}'


@pytest.mark.parametrize(("transposed", "bias"), list(product([False, True], repeat=2)))
@pytest.mark.parametrize(("shape", "outputs"), [((5, 3, 4), 7), ((1, 65), 70), ((70, 33), 1)])
def test_layouts_and_shapes(
    device: EmulatedDevice, shape: tuple[int, ...], outputs: int, transposed: bool, bias: bool
) -> None:
    options = f"transpose: {str(transposed).lower()} bias_term: {str(bias).lower()}"
    columns = shape[1] * (shape[2] if len(shape) > 2 else 1)
    weight = drawn(*((columns, outputs) if transposed else (outputs, columns)), seed=1)
    params = [weight, drawn(outputs, seed=2)][: 1 + bias]
    form = OneChain(device, PLAIN, text_of(outputs, options), drawn(*shape), params=params)
    form.check(drawn(shape[0], outputs, seed=3), atol=1e-5)


def test_rows_from_several_axes(fast: EmulatedDevice) -> None:
    params = [drawn(6, 5, seed=1), drawn(6, seed=2)]
    form = OneChain(fast, PLAIN, text_of(6, "axis: 2"), drawn(3, 4, 5), params=params)
    form.check(drawn(3, 4, 6), atol=1e-5)


@pytest.mark.parametrize("slope", [0, 0.25])
@pytest.mark.parametrize("place", ['bottom: "s" top: "s"', 'bottom: "s" top: "t"'])
def test_a_relu_rides_along(device: EmulatedDevice, place: str, slope: float) -> None:
    relu = f'type: "ReLU" {place} relu_param {{ negative_slope: {slope} }}'
    params = [drawn(9, 20, seed=1), drawn(9, seed=2)]
    form = OneChain(device, FUSED, [text_of(9), relu], drawn(130, 20), params=params)
    form.check(drawn(130, 9, seed=3), atol=1e-5)


def test_gradients_that_nobody_wants_are_left_out(checked: EmulatedDevice) -> None:
    params = [drawn(4, 6, seed=1), drawn(4, seed=2)]
    OneChain(checked, PLAIN, text_of(4), drawn(3, 6), params=params, wanted=[False]).check(
        drawn(3, 4), atol=1e-5
    )


@pytest.mark.parametrize(("math", "atol"), [("tf32", 2e-3), ("bf16", 1.5e-2), ("fp16", 2e-3)])
def test_other_math_modes(fast: EmulatedDevice, math: str, atol: float) -> None:
    params = [drawn(12, 30, seed=1), drawn(12, seed=2)]
    form = OneChain(fast, PLAIN, text_of(12), drawn(17, 30), params=params, mode=Mode(math=math))
    form.check(drawn(17, 12, seed=3), atol=atol, rtol=atol)
