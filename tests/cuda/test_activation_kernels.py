"""The forms of activations agree with their layers, in place and not; PReLU's slopes get their gradients."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.layers import activation
from netc.backends.form import Mode
from tests.cuda.one_chain import OneChain, chain_of, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

IN_PLACE = 'bottom: "x0" top: "x0"'
TEXTS = [
    'type: "ReLU"',
    'type: "ReLU" relu_param { negative_slope: 0.1 }',
    'type: "ReLU6" relu6_param { negative_slope: 0.1 }',
    'type: "Clip" clip_param { min: -0.5 max: 0.75 }',
    'type: "ELU" elu_param { alpha: 0.7 }',
    'type: "SeLU"',
    'type: "SeLu" selu_param { alpha: 1.5 }',
    'type: "Sigmoid"',
    'type: "TanH"',
    'type: "BNLL"',
    'type: "Swish" swish_param { beta: 1.5 }',
]
ELEMENTARY = [
    'type: "Exp" exp_param { base: 2 scale: 0.5 shift: 1 }',
    'type: "AbsVal"',
    'type: "Power" power_param { scale: -2 shift: 0.5 }',
    'type: "Power" power_param { power: 2 scale: 3 shift: 0.5 }',
    'type: "Power" power_param { power: 1.5 scale: 0.5 shift: 4 }',
    'type: "Log" log_param { base: 10 scale: 0.5 shift: 4 }',
]


def maker(text: str) -> object:
    return activation.FORMS[text.split('"')[1],]


def drawn_within(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers between -3 and 3, none of them near a bend of the activations here."""
    x = np.round(np.clip(drawn(*shape, seed=seed), -3, 3) * 8) / 8
    return np.float32(x + 1 / 32)


@pytest.mark.parametrize("text", TEXTS + ELEMENTARY)
def test_activations(checked: EmulatedDevice, text: str) -> None:
    checked.order, checked.seed = "random", 8
    form = OneChain(checked, maker(text), text, drawn_within(3, 5, 7))
    form.check(drawn(3, 5, 7, seed=1), atol=3e-6)


@pytest.mark.parametrize("text", TEXTS)
def test_activations_in_place_and_unaligned(fast: EmulatedDevice, text: str) -> None:
    form = OneChain(fast, maker(text), f"{text} {IN_PLACE}", drawn_within(1031), skew=4)
    form.check(drawn(1031, seed=1), atol=3e-6)


def test_thresholds(device: EmulatedDevice) -> None:
    text = 'type: "Threshold" threshold_param { threshold: 0.25 }'
    OneChain(device, maker(text), text, drawn(77)).check()


def test_powers_in_place_are_left_to_the_layer_where_gradients_are_wanted(fast: EmulatedDevice) -> None:
    for text in ('type: "Power"', 'type: "Log"'):
        nodes = chain_of(f"{text} {IN_PLACE}", (4,))
        assert maker(text)(nodes, Mode(), fast) is None  # type: ignore[operator]
        nodes[0].needs_backward = False
        assert maker(text)(nodes, Mode(), fast) is not None  # type: ignore[operator]


def test_nothing_is_saved_where_no_gradient_is_wanted(fast: EmulatedDevice) -> None:
    for text in ('type: "Swish"', f'type: "PReLU" {IN_PLACE}'):
        form = OneChain(
            fast,
            maker(text),
            text,
            drawn(2, 3, 4),
            params=[drawn(3)][: "PReLU" in text],
            mode=Mode(backward=False),
        )
        assert not form.form.saved
        form.check()


@pytest.mark.parametrize("place", ["", IN_PLACE], ids=["apart", "in place"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3, 4, 8, 8), (9, 6), (1, 1, 1)])
def test_prelu(device: EmulatedDevice, shape: tuple[int, ...], place: str) -> None:
    slopes = drawn(shape[1], seed=2)
    form = OneChain(device, maker('"PReLU"'), f'type: "PReLU" {place}', drawn(*shape), params=[slopes])
    form.check(drawn(*shape, seed=1), rtol=1e-5, atol=1e-5)


def test_prelu_with_one_slope_for_all(device: EmulatedDevice) -> None:
    text = 'type: "PReLU" prelu_param { channel_shared: true }'
    form = OneChain(device, maker(text), text, drawn(3, 5, 11), params=[np.float32(0.3)])
    form.check(drawn(3, 5, 11, seed=1), rtol=1e-5, atol=1e-5)
