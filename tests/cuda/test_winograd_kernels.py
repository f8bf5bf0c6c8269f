"""Winograd's convolution agrees with the direct one; how far F(4 x 4) strays from it is stated here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from netc.backends.cuda import winograd
from netc.backends.cuda.conv_shape import ConvShape
from netc.backends.cuda.device import DeviceProperties
from netc.backends.cuda.emulated_device import EmulatedDevice
from netc.backends.cuda.winograd import KERNELS, Sides
from netc.errors import NetcError
from tests.cuda.arrays import get, put, room
from tests.cuda.convolutions import arrays_of, convolve, filter_gradient, input_gradient, shape_of

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

# Largest error, as a share of the largest result. F(2 x 2) adds and halves; F(4 x 4) multiplies by up to 8.
TOLERANCE = {2: 1e-6, 4: 1e-5}


def error_of(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def run_forward(
    device: EmulatedDevice, m: int, shape: ConvShape, bias: np.ndarray | None = None, slope: float = 1.0
) -> float:
    """The error of a forward pass."""
    x, w, _ = arrays_of(shape)
    y = room(device, shape.y_count, name="y")
    KERNELS[m].forward(
        device, shape, put(device, x, "x"), put(device, w, "w"), y,
        put(device, bias) if bias is not None else None, slope,
        room(device, KERNELS[m].forward_floats(device, shape), name="workspace"),
    )()  # fmt: skip
    wanted = convolve(shape, x, w) + (0 if bias is None else bias[:, None, None])
    return error_of(get(device, y, wanted.shape), np.where(wanted > 0, wanted, slope * wanted))


def run_backward(
    device: EmulatedDevice, m: int, shape: ConvShape, bias: np.ndarray | None = None, slope: float = 1.0
) -> float:
    """The error of a backward pass to the bottom."""
    _, w, dy = arrays_of(shape)
    dx = room(device, shape.x_count, name="dx")
    KERNELS[m].backward_data(
        device, shape, put(device, dy, "dy"), put(device, w, "w"), dx,
        put(device, bias) if bias is not None else None, slope,
        room(device, KERNELS[m].backward_data_floats(device, shape), name="workspace"),
    )()  # fmt: skip
    wanted = input_gradient(shape, dy, w) + (0 if bias is None else bias[:, None, None])
    return error_of(get(device, dx, wanted.shape), np.where(wanted > 0, wanted, slope * wanted))


SHAPES = {
    "one cell": shape_of(1, 1, 3, 3, 1),
    "odd": shape_of(2, 5, 7, 6, 4, pad=(1, 1)),
    "no pad": shape_of(1, 3, 9, 8, 5),
    "wide pad": shape_of(2, 3, 4, 5, 5, pad=(2, 3)),
    "uneven pad": shape_of(1, 4, 5, 7, 3, pad=(0, 1)),
    "rows and tiles plus one": shape_of(1, 9, 6, 22, 65, pad=(1, 1)),
    "rows and tiles minus one": shape_of(1, 7, 2, 62, 63, pad=(1, 1)),
    "several blocks": shape_of(3, 24, 9, 10, 130, pad=(1, 1)),
}


@pytest.mark.parametrize("m", KERNELS)
@pytest.mark.parametrize("name", SHAPES)
def test_odd_shapes_in_both_directions(fast: EmulatedDevice, m: int, name: str) -> None:
    assert run_forward(fast, m, SHAPES[name]) <= TOLERANCE[m]
    assert run_backward(fast, m, SHAPES[name]) <= TOLERANCE[m]


@pytest.mark.parametrize("m", KERNELS)
def test_bias_and_relu(fast: EmulatedDevice, m: int) -> None:
    shape = shape_of(2, 5, 7, 6, 9, pad=(1, 1))
    assert run_forward(fast, m, shape, np.linspace(-1, 1, 9, dtype=np.float32), 0.25) <= TOLERANCE[m]
    assert run_backward(fast, m, shape, np.linspace(-1, 1, 5, dtype=np.float32), 0.0) <= TOLERANCE[m]


@pytest.mark.parametrize("m", KERNELS)
def test_check_mode(checked: EmulatedDevice, m: int) -> None:
    checked.order, checked.seed = "random", 7
    shape = shape_of(2, 11, 7, 6, 5, pad=(1, 1))
    assert run_forward(checked, m, shape, np.ones(5, np.float32)) <= TOLERANCE[m]
    assert run_backward(checked, m, shape) <= TOLERANCE[m]


def test_some_images_at_a_time(fast: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = shape_of(5, 3, 6, 6, 4, pad=(1, 1))
    monkeypatch.setattr(winograd, "MOST_TILE_BYTES", 2 * 36 * 7 * 4 * 4)  # two images
    assert Sides.forward(shape).images_at_once == 2
    assert run_forward(fast, 4, shape) <= TOLERANCE[4]


def test_the_larger_tile_strays_past_a_hundred_thousandth_with_many_channels(fast: EmulatedDevice) -> None:
    """Why F(4 x 4) has to be asked for, and F(2 x 2) need not."""
    shape = shape_of(1, 1024, 8, 8, 16, pad=(1, 1))
    assert run_forward(fast, 2, shape) <= 1e-6
    assert 1e-5 < run_forward(fast, 4, shape) <= 5e-5


def test_the_filters_gradient_is_the_direct_one(fast: EmulatedDevice) -> None:
    shape = shape_of(2, 5, 7, 6, 4, pad=(1, 1))
    x, w, dy = arrays_of(shape)
    dw = put(fast, np.zeros_like(w))
    count = KERNELS[2].backward_weights_floats(fast, shape)
    sums = room(fast, count) if count else None
    KERNELS[2].backward_weights(fast, shape, put(fast, x), put(fast, dy), dw, sums)()
    wanted = filter_gradient(shape, x, dy)
    np.testing.assert_allclose(get(fast, dw, wanted.shape), wanted, rtol=1e-5, atol=1e-4)


def make_large(fast: EmulatedDevice, **changes: int) -> None:
    """Gives the device the sizes of a large GPU."""
    large = DeviceProperties("large", 90, processors=132, memory_bytes=1 << 40, shared_bytes=227 << 10)
    fast.properties = replace(large, **changes)  # type: ignore[arg-type]


def test_it_is_chosen_for_many_channels_and_cells(fast: EmulatedDevice) -> None:
    make_large(fast)
    assert winograd.pays(fast, shape_of(64, 64, 56, 56, 64, pad=(1, 1)))
    assert not winograd.pays(fast, shape_of(64, 3, 224, 224, 64, pad=(1, 1)))
    assert not winograd.pays(fast, shape_of(1, 64, 8, 8, 64, pad=(1, 1)))
    assert not winograd.pays(fast, shape_of(64, 64, 56, 56, 64, stride=(2, 2)))
    assert not winograd.pays(fast, shape_of(64, 64, 56, 56, 64, group=2))
    assert not winograd.pays(fast, shape_of(64, 64, 56, 56, 64, (5, 5)))
    make_large(fast, shared_bytes=64 << 10, architecture=75)
    assert not winograd.pays(fast, shape_of(64, 64, 56, 56, 64, pad=(1, 1)))


def test_no_workspace_is_refused(fast: EmulatedDevice) -> None:
    memory = room(fast, 1000)
    with pytest.raises(NetcError, match="no workspace"):
        KERNELS[2].forward(fast, shape_of(1, 1, 3, 3, 1), memory, memory, memory)
