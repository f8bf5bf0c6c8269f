"""Pooling on oneDNN against the layer's own meaning, over windows, methods and layouts."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cpu import pool as pooling
from netc.backends.cpu.pool import make_pooling
from netc.backends.form import Form
from tests.cpu.form_case import BLOCKED, LAYOUTS, NHWC, FormCase, build

WINDOWS = {
    "LeNet's": ((2, 20, 24, 24), "kernel_size: 2 stride: 2"),
    "overlapping": ((2, 8, 13, 13), "kernel_size: 3 stride: 2"),
    "ceil goes over the edge": ((2, 8, 32, 32), "kernel_size: 3 stride: 2"),
    "floor leaves cells over": ((2, 8, 8, 8), "kernel_size: 3 stride: 2 round_mode: FLOOR"),
    "padding": ((2, 16, 7, 9), "kernel_size: 3 stride: 1 pad: 1"),
    "padding, last window dropped": ((2, 8, 5, 5), "kernel_size: 2 stride: 2 pad: 1"),
    "padding, ceil goes over the edge": ((2, 8, 8, 8), "kernel_size: 3 stride: 2 pad: 1"),
    "padding, far over the edge": ((2, 8, 9, 8), "kernel_size: 5 stride: 3 pad: 2"),
    "rectangle": ((2, 3, 9, 8), "kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0"),
    "stride over kernel": ((2, 8, 8, 8), "kernel_size: 2 stride: 3"),
    "global": ((2, 24, 7, 6), "global_pooling: true"),
    "one channel": ((2, 1, 6, 6), "kernel_size: 2 stride: 2"),
}


def pool(options: str, more: str = "") -> str:
    return (
        f'layer {{ name: "p" type: "Pooling" bottom: "x0" top: "y" pooling_param {{ {options} }} }}\n{more}'
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("window", WINDOWS)
def test_pooling(window: str, method: str, layout: str) -> None:
    shape, options = WINDOWS[window]
    FormCase(make_pooling, build(pool(f"pool: {method} {options}"), shape), layout).check()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("top", ["y", "z"])
@pytest.mark.parametrize("slope", [0, 0.25])
def test_relu_rides_along(layout: str, method: str, top: str, slope: float) -> None:
    relu = f'name: "r" type: "ReLU" bottom: "y" top: "{top}" relu_param {{ negative_slope: {slope} }}'
    layers = pool(f"pool: {method} kernel_size: 3 stride: 2 pad: 1", f"layer {{ {relu} }}")
    FormCase(make_pooling, build(layers, (2, 16, 8, 8)), layout).check()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_inference(layout: str, method: str) -> None:
    layers = pool(f"pool: {method} kernel_size: 3 stride: 2")
    form = FormCase(make_pooling, build(layers, (1, 8, 9, 9)), layout, backward=False).check()
    assert not form.saved


@pytest.mark.parametrize(
    "layers",
    [
        pool("pool: STOCHASTIC kernel_size: 2"),
        pool("pool: MAX kernel_size: 1 stride: 3"),
        'layer { type: "Pooling" bottom: "x0" top: "y" top: "mask" pooling_param { kernel_size: 2 } }',
    ],
    ids=["drawn", "a window behind the image", "the maxima's places"],
)
def test_what_onednn_cannot_do_stays_the_layers(layers: str) -> None:
    assert FormCase(make_pooling, build(layers, (2, 8, 5, 5)), "nhwc").form is None


class LoopCase(FormCase):
    """Values with ties, as many as there are, and some that are no numbers."""

    def draw(self, shape, low=None):  # type: ignore[no-untyped-def]
        return np.round(super().draw(shape, low) * 4) / 4


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops for nets of any size; the test is skipped where numba is missing."""
    pytest.importorskip("numba")
    monkeypatch.setattr(pooling, "SMALLEST", 0)


def check_loop(layers: str, shape: tuple[int, ...], layout: str) -> Form:
    form = LoopCase(make_pooling, build(layers, shape), layout).check()
    assert form.variant == f"loop {layout}"
    return form


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("layout", [NHWC, BLOCKED])
@pytest.mark.parametrize("window", WINDOWS)
def test_loops_choose_the_first_of_the_largest(window: str, layout: str) -> None:
    (images, _, *image), options = WINDOWS[window]
    check_loop(pool(f"pool: MAX {options}"), (images, 16, *image), layout)


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize(
    "options",
    [
        "kernel_size: 4 stride: 1 pad: 2",
        "kernel_h: 1 kernel_w: 5 stride_h: 1 stride_w: 2 pad_h: 0 pad_w: 3",
        "kernel_h: 5 kernel_w: 1 stride_h: 3 stride_w: 1",
        "kernel_size: 15 stride: 1 pad: 7",
    ],
)
@pytest.mark.parametrize(("layout", "channels"), [(NHWC, 8), (NHWC, 13), (NHWC, 20), (BLOCKED, 13)])
def test_loops_take_any_window_and_number_of_channels(layout: str, channels: int, options: str) -> None:
    check_loop(pool(f"pool: MAX {options}"), (3, channels, 10, 9), layout)


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("layout", [NHWC, BLOCKED])
@pytest.mark.parametrize("top", ["y", "z"])
def test_loops_end_with_a_relu(layout: str, top: str) -> None:
    relu = f'layer {{ name: "r" type: "ReLU" bottom: "y" top: "{top}" }}'
    form = check_loop(pool("pool: MAX kernel_size: 3 stride: 2", relu), (2, 16, 9, 9), layout)
    assert form.backward_tops == ()


@pytest.mark.usefixtures("loops")
def test_loops_keep_nothing_where_nothing_is_trained() -> None:
    layers = pool("pool: MAX kernel_size: 3 stride: 2")
    form = FormCase(make_pooling, build(layers, (1, 8, 9, 9)), NHWC, backward=False).check()
    assert (form.variant, form.saved) == ("loop nhwc", {})


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize(("channels", "layout"), [(8, BLOCKED), (24, BLOCKED), (24, NHWC), (21, NHWC)])
def test_loops_share_their_work_among_threads(
    threads: int, channels: int, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "threads_for", lambda shares: min(threads, shares))
    check_loop(pool("pool: MAX kernel_size: 3 stride: 2"), (1, channels, 11, 10), layout)


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        (pool("pool: MAX kernel_size: 2 stride: 2"), (2, 7, 8, 8)),
        (pool("pool: MAX kernel_size: 16 pad: 8"), (2, 8, 16, 16)),
        (
            pool(
                "pool: MAX kernel_size: 2 stride: 2",
                'layer { type: "ReLU" bottom: "y" top: "z" relu_param { negative_slope: 0.5 } }',
            ),
            (2, 8, 8, 8),
        ),
    ],
    ids=["few channels", "too many cells", "a leaking ReLU"],
)
def test_what_loops_cannot_do_is_onednns(layers: str, shape: tuple[int, ...]) -> None:
    form = FormCase(make_pooling, build(layers, shape), NHWC).check()
    assert form.variant.startswith("onednn")


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("cell", [np.nan, -np.inf, -3.4028235e38])
@pytest.mark.parametrize("layout", [NHWC, BLOCKED])
def test_a_window_without_a_number_gives_the_least(layout: str, cell: float) -> None:
    case = LoopCase(make_pooling, build(pool("pool: MAX kernel_size: 2 stride: 2"), (1, 8, 4, 4)), layout)
    draw = case.draw

    def with_cells(shape, low=None):  # type: ignore[no-untyped-def]
        values = draw(shape, low)
        if shape == (1, 8, 4, 4):
            values[0, :4, :2, :2] = cell  # whole windows
            values[0, 4, 3, 3] = cell
        return values

    case.draw = with_cells  # type: ignore[method-assign]
    case.check()


@pytest.mark.usefixtures("loops")
def test_without_numba_maxima_are_onednns(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, name: str) -> None:
        raise ImportError("No module named 'numba'")

    monkeypatch.setattr(pooling, "compiled", missing)
    form = FormCase(
        make_pooling, build(pool("pool: MAX kernel_size: 2 stride: 2"), (2, 8, 8, 8)), NHWC
    ).check()
    assert form.variant.startswith("onednn")
