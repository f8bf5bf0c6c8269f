"""Dropout on the device drops what the layer drops, to the bit, and draws anew in every pass."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.layers import dropout
from netc.backends.form import Mode
from netc.proto import netc_pb2 as pb
from tests.cuda.arrays import get, put, room
from tests.cuda.one_chain import OneChain, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

LAYERS = {
    "usual": 'type: "Dropout" top: "y"',
    "in place": 'type: "Dropout" top: "x0" dropout_param { dropout_ratio: 0.3 }',
    "scaled in test": 'type: "Dropout" top: "y" dropout_param { dropout_ratio: 0.3 scale_train: false }',
    "drawing in test": 'type: "Dropout" top: "y" dropout_param { sample_weights_test: true }',
    "SeLU": 'type: "SeLUDropout" top: "y" selu_dropout_param { dropout_ratio: 0.3 }',
    "SeLU in place": 'type: "SeLuDropout" top: "x0"',
}


def text(name: str) -> str:
    return f'layer {{ name: "drop" bottom: "x0" {LAYERS[name]} }}'


@pytest.mark.parametrize("phase", [pb.TRAIN, pb.TEST])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_in_both_phases(device: EmulatedDevice, name: str, phase: int) -> None:
    one = OneChain(device, dropout.FORMS, text(name), drawn(3, 5, 7), phase=phase)
    one.check(rtol=2e-7, atol=2e-7, passes=3)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 8 * 256 - 1, 8 * 256 + 1, 70_001])
def test_the_edges_of_bytes_blocks_and_grids(fast: EmulatedDevice, count: int) -> None:
    one = OneChain(fast, dropout.FORMS, text("usual"), drawn(count))
    one.check(rtol=0, atol=0, passes=2)


def test_another_draw_drops_other_values_and_a_draw_can_be_repeated(fast: EmulatedDevice) -> None:
    rule, x, y = dropout.Rule(0.5, 1.0), put(fast, np.ones(4096, np.float32)), room(fast, 4096)
    draw, key = put(fast, np.zeros(1, np.int64), "draw"), (np.uint64(7), np.uint64(9))
    run = dropout.forward(fast, rule, x, key, draw, y, None)
    assert run is not None
    seen = []
    for number in (0, 1, 0):
        fast.upload(draw, np.array([number], np.int64))
        run()
        seen.append(get(fast, y))
    np.testing.assert_array_equal(seen[0], seen[2])
    assert 0.45 < (seen[0] == seen[1]).mean() < 0.55
    assert abs(seen[0].mean() - 0.5) < 0.03
    np.testing.assert_array_equal(get(fast, draw, dtype=np.int64), [1])


def test_a_replayed_graph_draws_anew(fast: EmulatedDevice) -> None:
    one = OneChain(fast, dropout.FORMS, text("usual"), drawn(100))
    one.forward()
    with fast.capture() as graphs:
        one.run()
    tops = [one.expected_forward()[0].copy() for _ in range(3)]
    for top in tops[1:]:
        graphs[0].replay()
        np.testing.assert_array_equal(one.values(one.buffers.tops[0]), top)


def test_memory_off_sixteen_bytes(fast: EmulatedDevice) -> None:
    x = drawn(37)
    x_memory, y, dx = put(fast, x, skew=4), room(fast, 37, skew=4), room(fast, 37, skew=8)
    draw, mask, rule = put(fast, np.zeros(1, np.int64)), room(fast, 5, np.uint8), dropout.Rule(0.5, 2.0)
    run = dropout.forward(fast, rule, x_memory, (np.uint64(1), np.uint64(2)), draw, y, mask)
    assert run is not None
    run()
    dropout.backward(fast, rule, x_memory, mask, dx)()
    kept = np.unpackbits(get(fast, mask, dtype=np.uint8), bitorder="little")[:37]
    np.testing.assert_array_equal(get(fast, y), 2 * x * kept)
    np.testing.assert_array_equal(get(fast, dx), 2 * x * kept)
    assert 0 < kept.sum() < 37


def test_without_backward_there_is_no_mask(fast: EmulatedDevice) -> None:
    one = OneChain(fast, dropout.FORMS, text("usual"), drawn(100), mode=Mode(backward=False))
    assert not one.form.saved
    np.testing.assert_array_equal(one.forward()[0], one.expected_forward()[0])
