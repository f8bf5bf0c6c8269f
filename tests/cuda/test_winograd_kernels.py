"""Winograd's convolution agrees with the direct one; how far F(4 x 4) strays from it is stated here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from netc.backends.cuda.convolution import winograd
from netc.backends.cuda.convolution.shape import ConvShape
from netc.backends.cuda.convolution.winograd import Sides
from netc.backends.cuda.convolution.work import Images
from netc.backends.cuda.device import DeviceProperties
from netc.backends.cuda.emulator import EmulatedDevice
from netc.errors import NetcError
from tests.cuda.arrays import get, put, room
from tests.cuda.convolutions import arrays_of, convolve, input_gradient, shape_of

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

# Largest error, as a share of the largest result. F(2 x 2) adds and halves; F(4 x 4) multiplies by up to 3.4.
TOLERANCE = {2: 1e-6, 4: 5e-6}


def error_of(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def run(
    device: EmulatedDevice,
    direction: str,
    m: int,
    shape: ConvShape,
    bias: np.ndarray | None = None,
    slope: float = 1.0,
) -> float:
    """The error of a direction."""
    x, w, dy = arrays_of(shape)
    forward = direction == "forward"
    source, wanted = (x, convolve(shape, x, w)) if forward else (dy, input_gradient(shape, dy, w))
    wanted = wanted + (0 if bias is None else bias[:, None, None])
    wanted = np.where(wanted > 0, wanted, slope * wanted)
    candidate = winograd.candidate(direction, shape, m)
    work = Images(
        put(device, source, "source"),
        put(device, w, "w"),
        room(device, wanted.size, name="target"),
        None if bias is None else put(device, bias, "bias"),
        slope,
        room(device, candidate.floats, name="workspace"),
    )
    candidate.bind(device, shape, work)()
    return error_of(get(device, work.target, wanted.shape), wanted)


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


@pytest.mark.parametrize("m", winograd.BINDERS)
@pytest.mark.parametrize("name", SHAPES)
def test_odd_shapes_in_both_directions(fast: EmulatedDevice, m: int, name: str) -> None:
    assert run(fast, "forward", m, SHAPES[name]) <= TOLERANCE[m]
    assert run(fast, "backward_data", m, SHAPES[name]) <= TOLERANCE[m]


@pytest.mark.parametrize("m", winograd.BINDERS)
def test_bias_and_relu(fast: EmulatedDevice, m: int) -> None:
    shape = shape_of(2, 5, 7, 6, 9, pad=(1, 1))
    assert run(fast, "forward", m, shape, np.linspace(-1, 1, 9, dtype=np.float32), 0.25) <= TOLERANCE[m]
    assert run(fast, "backward_data", m, shape, np.linspace(-1, 1, 5, dtype=np.float32), 0.0) <= TOLERANCE[m]


@pytest.mark.parametrize("m", winograd.BINDERS)
def test_check_mode(checked: EmulatedDevice, m: int) -> None:
    checked.order, checked.seed = "random", 7
    shape = shape_of(2, 11, 7, 6, 5, pad=(1, 1))
    assert run(checked, "forward", m, shape, np.ones(5, np.float32)) <= TOLERANCE[m]
    assert run(checked, "backward_data", m, shape) <= TOLERANCE[m]


def test_some_images_at_a_time(fast: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = shape_of(5, 3, 6, 6, 4, pad=(1, 1))
    monkeypatch.setattr(winograd, "MOST_TILE_BYTES", 2 * 36 * 7 * 4 * 4)  # two images
    assert Sides.forward(shape).images_at_once == 2
    assert run(fast, "forward", 4, shape) <= TOLERANCE[4]


def test_rounding_stays_small_with_many_channels(fast: EmulatedDevice) -> None:
    shape = shape_of(1, 1024, 8, 8, 16, pad=(1, 1))
    assert run(fast, "forward", 2, shape) <= 1e-6
    assert run(fast, "forward", 4, shape) <= 5e-6


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
    memory, shape = room(fast, 1000), shape_of(1, 1, 3, 3, 1)
    with pytest.raises(NetcError, match="too little workspace"):
        winograd.candidate("forward", shape, 2).bind(fast, shape, Images(memory, memory, memory))
