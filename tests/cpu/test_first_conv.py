"""A first convolution's filter gradients against the layer's own meaning, over geometries and layouts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest

from netc.backends.cpu import first_conv
from netc.backends.cpu.conv import make_convolution
from netc.backends.cpu.filters import FiltersForm
from netc.backends.cpu.first_conv import FirstFilters, instructions
from netc.backends.cpu.loops.processor import vector_lanes
from netc.backends.form import Form
from tests.cpu.form_case import BLOCKED, LAYOUTS, NHWC, PLAIN, FormCase, build

pytest.importorskip("numba")
pytestmark = pytest.mark.skipif(not vector_lanes(), reason="the processor multiplies or adds")

GEOMETRIES = {
    "LeNet's": ((3, 1, 28, 28), "num_output: 20 kernel_size: 5"),
    "CIFAR-10 quick's": ((2, 3, 32, 32), "num_output: 32 kernel_size: 5 pad: 2"),
    "AlexNet's, of a smaller image": ((2, 3, 63, 47), "num_output: 96 kernel_size: 11 stride: 4"),
    "ResNet's, of a smaller image": ((1, 3, 30, 41), "num_output: 64 kernel_size: 7 stride: 2 pad: 3"),
    "several pieces of an image": ((2, 4, 70, 66), "num_output: 24 kernel_size: 3"),
    "rows wider than a piece": ((1, 1, 4, 1500), "num_output: 9 kernel_size: 3"),
    "one filter": ((2, 2, 9, 8), "num_output: 1 kernel_size: 3"),
    "one pixel": ((2, 3, 4, 5), "num_output: 7 kernel_h: 4 kernel_w: 5"),
    "one cell": ((1, 3, 1, 1), "num_output: 5 kernel_size: 1"),
    "rectangle": (
        (3, 2, 7, 9),
        "num_output: 3 kernel_h: 2 kernel_w: 4 pad_h: 1 pad_w: 2 stride_h: 2 stride_w: 3",
    ),
    "stride leaves cells over": ((2, 3, 10, 12), "num_output: 8 kernel_size: 3 stride: 2"),
    "stride over kernel": ((2, 2, 9, 11), "num_output: 3 kernel_size: 2 stride: 3"),
    "pad over most of the image": ((2, 1, 5, 6), "num_output: 2 kernel_size: 4 pad: 3"),
    "dilation": ((3, 2, 9, 8), "num_output: 3 kernel_size: 2 dilation: 2 dilation: 3 stride: 2 pad: 1"),
    "kernel overhangs by less than a stride": ((2, 2, 4, 4), "num_output: 3 kernel_size: 5 stride: 2"),
}
FIRST = partial(FormCase, make_convolution, wanted=[False])


def part(form: Form | None) -> FirstFilters | None:
    """What computes the gradients of a form's filters, where it is the loop."""
    assert isinstance(form, FiltersForm)
    return next((part for part in form.backward_parts if isinstance(part, FirstFilters)), None)


def conv(options: str, relu: str | None = None, top: str = "y", more: str = "") -> str:
    """A convolution, and with `relu` a ReLU of these options that ends in `top`."""
    layer = f'name: "c" type: "Convolution" bottom: "x0" top: "y" convolution_param {{ {options} }} {more}'
    if relu is None:
        return f"layer {{ {layer} }}"
    behind = f'name: "r" type: "ReLU" bottom: "y" top: "{top}" relu_param {{ {relu} }}'
    return f"layer {{ {layer} }} layer {{ {behind} }}"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradients_of_the_filters(geometry: str, layout: str) -> None:
    shape, options = GEOMETRIES[geometry]
    form = FIRST(build(conv(options), shape), layout).check()
    assert part(form)


def test_padding_beyond_the_whole_image() -> None:
    """Here oneDNN reads plain images only where the top is plain as well."""
    graph = build(conv("num_output: 2 kernel_size: 3 pad: 3"), (2, 1, 2, 3))
    assert part(FIRST(graph, PLAIN).check())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("top", ["y", "z"])
@pytest.mark.parametrize("slope", [0, 0.25])
def test_a_relu_lets_gradients_through(slope: float, top: str, layout: str) -> None:
    layers = conv("num_output: 12 kernel_size: 3 pad: 1", f"negative_slope: {slope}", top)
    assert part(FIRST(build(layers, (2, 3, 17, 16)), layout).check())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", ["", "bias_term: false"])
def test_fresh_gradients_are_written(options: str, layout: str) -> None:
    graph = build(conv(f"num_output: 20 kernel_size: 3 {options}", ""), (2, 3, 9, 9))
    form = FIRST(graph, layout, fresh=True).check()
    assert part(form)
    assert form.writes_fresh


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bias_that_does_not_learn(layout: str) -> None:
    layers = conv("num_output: 20 kernel_size: 3", more="param {} param { lr_mult: 0 }")
    graph = build(layers, (2, 3, 9, 9))
    graph.nodes[1].param_needs_grad[1] = False
    assert part(FIRST(graph, layout).check())


@pytest.mark.parametrize("lanes", [8, 16])
@pytest.mark.parametrize("filters", [7, 20, 40, 96])
def test_every_tile(lanes: int, filters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of wider vectors than the processor has are computed in parts."""
    monkeypatch.setattr(first_conv, "vector_lanes", lambda: lanes)
    graph = build(conv(f"num_output: {filters} kernel_size: 5", ""), (2, 3, 15, 14))
    loop = part(FIRST(graph, NHWC).check())
    assert loop
    assert loop.tile[0] == lanes


def test_threads_share_the_images_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sums up its pieces, then the sums are added in the threads' order: the same bits each time."""
    results = []
    for _ in range(3):
        monkeypatch.setattr(first_conv, "threads_for", lambda shares: min(3, shares))
        case = FIRST(build(conv("num_output: 20 kernel_size: 5", ""), (5, 1, 28, 28)), BLOCKED)
        form = case.check()
        loop = part(form)
        assert loop
        assert loop.threads == 3
        results.append(case.run_form(form)["param gradient 0"])
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


@pytest.mark.parametrize(
    ("shape", "options", "wanted"),
    [
        ((2, 3, 9, 9), "num_output: 6 kernel_size: 3", True),
        ((2, 8, 9, 9), "num_output: 6 kernel_size: 3", False),
        ((2, 4, 9, 9), "num_output: 6 kernel_size: 3 group: 2", False),
        ((2, 3, 9), "num_output: 6 kernel_size: 3", False),
        ((2, 2, 5, 4, 6), "num_output: 3 kernel_size: 2", False),
        ((2, 3, 2, 7), "num_output: 3 kernel_size: 2 axis: 2", False),
    ],
)
def test_other_convolutions_stay_onednns(shape: Sequence[int], options: str, wanted: bool) -> None:
    case = FormCase(make_convolution, build(conv(options), shape), PLAIN, wanted=[wanted])
    assert part(case.form) is None


def test_filters_that_do_not_learn_stay_onednns() -> None:
    graph = build(conv("num_output: 6 kernel_size: 3"), (2, 3, 9, 9))
    graph.nodes[1].param_needs_grad[0] = False
    assert part(FIRST(graph, PLAIN).form) is None


def test_the_tile_with_the_fewest_instructions_is_taken() -> None:
    assert instructions((8, 3, 4), filters=20, taps=25) == 7 * (12 + 3 + 4)
    assert instructions((8, 2, 6), filters=20, taps=25) == 2 * 5 * (12 + 2 + 6)


def test_without_the_loops_onednn_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, name: object) -> None:
        raise ImportError("No module named 'numba'")

    monkeypatch.setattr(first_conv, "compiled", missing)
    assert part(FIRST(build(conv("num_output: 6 kernel_size: 3"), (2, 3, 9, 9)), PLAIN).check()) is None
