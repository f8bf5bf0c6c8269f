"""Scale and Bias agree with their layers, over any axes, from a parameter or a second bottom."""

from __future__ import annotations

import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.layers import scale
from netc.backends.form import Mode
from tests.cuda.one_chain import OneChain, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

SCALE, BIAS = scale.FORMS["Scale",], scale.FORMS["Bias",]
IN_PLACE = 'bottom: "x0" top: "x0"'
# Bottom, axis, num_axes, operand.
OPERANDS = [
    ((2, 3, 5, 7), 1, 1, (3,)),
    ((3, 4, 6, 6), 1, 1, (4,)),
    ((5, 6), 1, 1, (6,)),
    ((2, 3, 4, 5), 1, 2, (3, 4)),
    ((2, 3, 4), 0, -1, (2, 3, 4)),
    ((2, 3, 4), 1, 0, ()),
    ((1, 1, 1), -1, 1, (1,)),
]


@pytest.mark.parametrize("bias", ["", "bias_term: true"])
@pytest.mark.parametrize(("shape", "axis", "axes", "operand"), OPERANDS)
def test_learned_scales(
    device: EmulatedDevice,
    shape: tuple[int, ...],
    axis: int,
    axes: int,
    operand: tuple[int, ...],
    bias: str,
) -> None:
    text = f'type: "Scale" scale_param {{ axis: {axis} num_axes: {axes} {bias} }}'
    params = [drawn(*operand, seed=i) for i in range(2 if bias else 1)]
    OneChain(device, SCALE, text, drawn(*shape), params=params).check(drawn(*shape, seed=3), atol=1e-5)


@pytest.mark.parametrize(("shape", "axis", "axes", "operand"), OPERANDS)
def test_learned_biases(
    device: EmulatedDevice, shape: tuple[int, ...], axis: int, axes: int, operand: tuple[int, ...]
) -> None:
    text = f'type: "Bias" bias_param {{ axis: {axis} num_axes: {axes} }}'
    form = OneChain(device, BIAS, text, drawn(*shape), params=[drawn(*operand, seed=1)])
    form.check(drawn(*shape, seed=3), atol=1e-5)


@pytest.mark.parametrize("wanted", [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("bias", ["", "bias_term: true"])
def test_operands_from_a_second_bottom(device: EmulatedDevice, bias: str, wanted: tuple[bool, bool]) -> None:
    text = f'type: "Scale" scale_param {{ axis: 0 {bias} }}'
    params = [drawn(2, 3, seed=5)] if bias else []
    form = OneChain(device, SCALE, text, drawn(2, 3, 37), drawn(2, 3, seed=1), params=params, wanted=wanted)
    form.check(drawn(2, 3, 37, seed=3), atol=1e-5)
    form = OneChain(device, BIAS, 'type: "Bias"', drawn(2, 3, 37), drawn(3, seed=1), wanted=wanted)
    form.check(drawn(2, 3, 37, seed=3), atol=1e-5)


@pytest.mark.parametrize("skew", [0, 4])
def test_in_place_the_bottom_is_kept_for_its_gradient(device: EmulatedDevice, skew: int) -> None:
    text = f'type: "Scale" {IN_PLACE} scale_param {{ bias_term: true }}'
    params = [drawn(3, seed=1), drawn(3, seed=2)]
    form = OneChain(device, SCALE, text, drawn(4, 3, 9), params=params, skew=skew)
    form.check(drawn(4, 3, 9, seed=3), atol=1e-5)
    form = OneChain(device, BIAS, f'type: "Bias" {IN_PLACE}', drawn(4, 3, 9), params=params[:1], skew=skew)
    form.check(drawn(4, 3, 9, seed=3), atol=1e-5)


def test_in_place_nothing_is_kept_where_no_gradient_is_wanted(fast: EmulatedDevice) -> None:
    text = f'type: "Scale" {IN_PLACE}'
    form = OneChain(fast, SCALE, text, drawn(4, 3), params=[drawn(3)], mode=Mode(backward=False))
    assert not form.form.saved
    form.check()


def test_the_product_that_caffe_leaves_in_an_unwanted_gradient(fast: EmulatedDevice) -> None:
    x, dy = drawn(4, 3, 5), drawn(4, 3, 5, seed=1)
    form = OneChain(fast, SCALE, 'type: "Scale"', x, params=[drawn(3)], wanted=[False])
    form.buffers.leftovers[0] = form.room(x.shape, name="leftover")
    form.forward()
    form.backward([dy])
    assert (form.buffers.leftovers[0] == x * dy).all()


def test_many_channels_and_several_blocks(fast: EmulatedDevice) -> None:
    params = [drawn(515, seed=1), drawn(515, seed=2)]
    text = 'type: "Scale" scale_param { bias_term: true }'
    OneChain(fast, SCALE, text, drawn(3, 515, 7, 7), params=params).check(
        drawn(3, 515, 7, 7, seed=3), atol=1e-5
    )
    OneChain(fast, SCALE, text, drawn(300, 515), params=params).check(drawn(300, 515, seed=3), atol=1e-5)
