"""Dropout on the CPU: the layer's own draws to the bit, in loops; and values that nothing is done to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.backends.cpu import dropout as dropout_forms
from netc.backends.cpu.dropout import DropForm, make_dropout
from netc.backends.form import NHWC, PLAIN
from netc.layer import Buffers
from netc.proto import netc_pb2 as pb
from tests.cpu.form_case import LAYOUTS, FormCase, aligned, allocate, build

HUGE = 2**40  # a draw whose number takes more than 32 bits


def dropout(options: str = "", top: str = "y") -> str:
    return f'layer {{ name: "d" type: "Dropout" bottom: "x0" top: "{top}" dropout_param {{ {options} }} }}'


@pytest.fixture
def loops() -> None:
    pytest.importorskip("numba")


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("top", ["x0", "y"])
@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (9,), (3, 8, 17), (64, 500)])
def test_values_and_gradients_are_the_layers(shape: tuple[int, ...], top: str) -> None:
    form = FormCase(make_dropout, build(dropout("dropout_ratio: 0.3", top), shape), PLAIN).check()
    assert isinstance(form, DropForm)


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_maps_are_asked_for_in_the_order_of_the_draws(layout: str) -> None:
    form = FormCase(make_dropout, build(dropout(), (2, 9, 4, 3)), layout).check()
    assert form.bottom_layouts is None


class Draws:
    """One layer's form and meaning, on arrays that last."""

    def __init__(self, options: str, elements: int, seed: int = 1) -> None:
        graph = build(dropout(options), (elements,))
        self.case = FormCase(make_dropout, graph, PLAIN)
        self.layer: Any = self.case.nodes[0].layer
        self.layer.seed = seed
        self.x = self.case.draw((elements,))

    def buffers(self, saved: Any, draw: int) -> Buffers:
        made = Buffers(bottoms=[aligned(self.x)], tops=[aligned(self.x)], params=[], saved=allocate(saved))
        made.states = {"draw": np.array([draw], np.int64)}
        made.top_grads, made.bottom_grads = [aligned(self.x)], [aligned(self.x)]
        return made

    def form_and_layer(self, draw: int, passes: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The tops and gradients of some passes, by the form and by the layer, from this draw on; with the
        count that they left."""
        form = self.case.form
        assert isinstance(form, DropForm)
        mine, meant = self.buffers(form.saved, draw), self.buffers(self.layer.saved, draw)
        forward, backward = form.forward(mine), form.backward(mine)
        found, expected = [], []
        for _ in range(passes):
            forward()
            backward()
            self.layer.forward(np, meant)
            self.layer.backward(np, meant)
            found += [mine.tops[0].copy(), mine.bottom_grads[0].copy()]
            expected += [meant.tops[0].copy(), meant.bottom_grads[0].copy()]
        return [*found, mine.states["draw"]], [*expected, meant.states["draw"]]


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("draw", [0, 1, 12345, HUGE])
@pytest.mark.parametrize("seed", [1, -1, 2**63 + 5])
def test_draw_after_draw_is_the_layers_to_the_bit(seed: int, draw: int) -> None:
    found, expected = Draws("", 1003, seed).form_and_layer(draw, 3)
    assert [array.tobytes() for array in found] == [array.tobytes() for array in expected]


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("ratio", [0.0, 0.1, 1 / 3, 0.5, 0.7, 0.999, 1 - 2**-24])
def test_a_number_at_the_ratio_is_kept_as_by_the_layer(ratio: float) -> None:
    """Ratios that are no multiples of 2^-24, and those that are."""
    found, expected = Draws(f"dropout_ratio: {ratio!r}", 40001).form_and_layer(3, 2)
    assert [array.tobytes() for array in found] == [array.tobytes() for array in expected]


@pytest.mark.usefixtures("loops")
def test_what_is_no_number_stays_none_where_it_is_dropped() -> None:
    draws = Draws("dropout_ratio: 0.9", 64)
    draws.x[:] = [np.nan, np.inf] * 32
    with np.errstate(invalid="ignore"):
        found, expected = draws.form_and_layer(0, 1)
    np.testing.assert_array_equal(found[0], expected[0])


@pytest.mark.usefixtures("loops")
def test_threads_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(dropout_forms, "threads_for", lambda shares, count=threads: count)
        results.append(Draws("", 1000).form_and_layer(0, 2)[0])
    assert len({tuple(array.tobytes() for array in result) for result in results}) == 1


@pytest.mark.usefixtures("loops")
def test_nothing_is_saved_where_nobody_goes_back() -> None:
    graph = build(dropout("sample_weights_test: true"), (3, 5), phase=pb.TEST)
    form = FormCase(make_dropout, graph, PLAIN, backward=False).check()
    assert not form.saved


def test_without_numba_the_layer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, name: str) -> None:
        raise ImportError("No module named 'numba'")

    monkeypatch.setattr(dropout_forms, "compiled", missing)
    assert FormCase(make_dropout, build(dropout(), (3, 5)), PLAIN).form is None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("top", ["x0", "y"])
def test_in_a_net_for_use_value_and_layout_stay(top: str, layout: str) -> None:
    graph = build(dropout(top=top), (2, 9, 4, 3), phase=pb.TEST)
    form = FormCase(make_dropout, graph, layout).check()
    assert (form.bottom_layouts, form.top_layouts) == ((layout,), (layout,))


def test_what_is_only_multiplied_stays_the_layers() -> None:
    graph = build(dropout("scale_train: false"), (2, 9, 4, 3), phase=pb.TEST)
    assert FormCase(make_dropout, graph, NHWC).form is None
