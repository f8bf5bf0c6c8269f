"""Activations, fills and copies agree with NumPy at the edges of their packs, blocks and grids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.launching import fill
from netc.backends.cuda.launching.elementwise import THREADS
from netc.backends.cuda.layers import activation
from netc.layer import Layer
from tests.cuda.arrays import get, put, room
from tests.layer.one_layer import OneLayer

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

# One float, a pack and its neighbours, a block of packs and its neighbours, more than one round of the grid.
COUNTS = (1, 3, 4, 5, 4 * THREADS - 1, 4 * THREADS, 4 * THREADS + 1, 70_003)
# Layer type: its prototxt, then the constants p and q of its kernel.
LAYERS = {
    "ReLU": ('type: "ReLU"', 0, 0),
    "leaky ReLU": ('type: "ReLU" relu_param { negative_slope: 0.1 }', 0.1, 0),
    "ReLU6": ('type: "ReLU6" relu6_param { negative_slope: 0.1 }', 0.1, 0),
    "Clip": ('type: "Clip" clip_param { min: -0.5 max: 1.5 }', -0.5, 1.5),
    "ELU": ('type: "ELU" elu_param { alpha: 0.7 }', 0.7, 0),
    "Sigmoid": ('type: "Sigmoid"', 0, 0),
    "TanH": ('type: "TanH"', 0, 0),
    "BNLL": ('type: "BNLL"', 0, 0),
}


def drawn(count: int, seed: int = 0) -> np.ndarray:
    return (3 * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def reference(text: str, x: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the layer itself computes forward and backward."""
    one = OneLayer(text, x)
    layer: Layer = one.layer
    layer.forward(np, one.buffers)
    y = one.buffers.tops[0].copy()
    one.buffers.top_grads, one.buffers.bottom_grads = [dy], [np.empty_like(x)]
    layer.backward(np, one.buffers)
    return y, one.buffers.bottom_grads[0]


def run(device: EmulatedDevice, name: str, x: np.ndarray, dy: np.ndarray, skew: int, in_place: bool) -> Any:
    text, p, q = LAYERS[name]
    kind = text.split('"')[1]
    x_memory, dy_memory = put(device, x, "x", skew), put(device, dy, "dy", skew)
    y_memory = x_memory if in_place else room(device, len(x), name="y", skew=skew)
    dx_memory = dy_memory if in_place else room(device, len(x), name="dx", skew=skew)
    activation.prepare_forward(device, kind, x_memory, y_memory, (p, q))()
    y = get(device, y_memory)
    # In place the bottom is gone: backward reads what forward left in its memory.
    activation.prepare_backward(device, kind, x_memory, y_memory, dy_memory, dx_memory, (p, q))()
    return y, get(device, dx_memory)


@pytest.mark.parametrize("count", COUNTS)
def test_relu_at_every_edge(device: EmulatedDevice, count: int) -> None:
    x, dy = drawn(count), drawn(count, 1)
    for got, wanted in zip(
        run(device, "ReLU", x, dy, 0, False), reference(LAYERS["ReLU"][0], x, dy), strict=True
    ):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", LAYERS)
def test_activations_agree_with_their_layers(device: EmulatedDevice, name: str) -> None:
    x, dy = drawn(1029), drawn(1029, 1)
    y, dx = run(device, name, x, dy, 0, False)
    wanted_y, wanted_dx = reference(LAYERS[name][0], x, dy)
    np.testing.assert_allclose(y, wanted_y, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(dx, wanted_dx, rtol=2e-6, atol=4e-6)  # 1 - y^2 cancels


@pytest.mark.parametrize("name", ["ReLU", "TanH"])
def test_unaligned_addresses_and_in_place(device: EmulatedDevice, name: str) -> None:
    x, dy = drawn(131), drawn(131, 1)
    y, dx = run(device, name, x, dy, 4, True)
    wanted_y, wanted_dx = reference(LAYERS[name][0], x, dy)
    np.testing.assert_allclose(y, wanted_y, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(dx, wanted_dx, rtol=2e-6, atol=1e-6)


def test_relu_of_infinity_and_nan(device: EmulatedDevice) -> None:
    x = np.array([np.inf, -np.inf, np.nan, -0.0], np.float32)
    y, _ = run(device, "ReLU", x, x, 0, False)
    np.testing.assert_array_equal(y, [np.inf, 0, np.nan, 0])


@pytest.mark.parametrize("skew", [0, 4])
@pytest.mark.parametrize("count", [1, 7, 1028])
def test_fill_and_copy(device: EmulatedDevice, count: int, skew: int) -> None:
    x, y = room(device, count, name="x", skew=skew), room(device, count, name="y", skew=skew)
    fill.fill(device, x, 1.5)
    fill.copy(device, x, y)
    np.testing.assert_array_equal(get(device, y), np.full(count, 1.5, np.float32))


@pytest.mark.parametrize(("columns", "pitch"), [(1, 1), (8, 12), (8, 9), (5, 7), (300, 300)])
def test_copied_rows_leave_the_gaps_alone(device: EmulatedDevice, columns: int, pitch: int) -> None:
    x = drawn(3 * columns).reshape(3, columns)
    target = np.full((3, pitch), 7, np.float32)
    y = put(device, target, "y")
    fill.copy_rows(device, 3, columns, put(device, x, "x"), columns, y, pitch)
    target[:, :columns] = x
    np.testing.assert_array_equal(get(device, y, (3, pitch)), target)
