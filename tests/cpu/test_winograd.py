"""Winograd's convolution against the layer's own meaning: all kinds of tiles and edges, groups, threads."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from netc.backends.cpu import loops, winograd_task
from netc.backends.cpu.bn import FOLLOWERS
from netc.backends.cpu.conv import make_convolution
from netc.backends.cpu.conv_bn import (
    FoldedConvolutionForm,
    ScaledConvolutionForm,
    make_convolution_batch_norm,
)
from netc.backends.cpu.filter_parts import PointsData, PointsFilters, PointsForward
from netc.backends.cpu.filters import FiltersForm
from netc.backends.cpu.winograd_task import Dealing, Task, blocks, data_task
from netc.backends.form import Form, Mode
from netc.layer import Buffers
from netc.proto import netc_pb2 as pb
from tests.cpu.form_case import BLOCKED, NHWC, FormCase, aligned, allocate, build, pack
from tests.cpu.test_conv import conv, relu
from tests.cpu.test_conv_bn import chain, shapes
from tests.cpu.test_update import team_of

pytest.importorskip("numba", reason="Winograd's convolution needs numba (netc[cpu])")

GEOMETRIES = {
    "whole tiles": ((2, 16, 8, 8), "num_output: 16 kernel_size: 3 pad: 1"),
    "cells over at the edges": ((2, 16, 9, 7), "num_output: 24 kernel_size: 3 pad: 1"),
    "no padding": ((2, 16, 9, 13), "num_output: 8 kernel_size: 3"),
    "more padding than the filter": ((2, 8, 5, 6), "num_output: 8 kernel_size: 3 pad: 4"),
    "smaller than a tile": ((3, 16, 3, 3), "num_output: 16 kernel_size: 3 pad: 1"),
    "one cell": ((2, 16, 1, 1), "num_output: 16 kernel_size: 3 pad: 1"),
    "paddings differ": ((2, 8, 6, 9), "num_output: 8 kernel_size: 3 pad_h: 0 pad_w: 2"),
    "channels beyond a piece": ((1, 70, 6, 6), "num_output: 130 kernel_size: 3 pad: 1"),
    "few channels": ((2, 3, 9, 9), "num_output: 5 kernel_size: 3 pad: 1"),
    "groups": ((2, 24, 9, 9), "num_output: 40 kernel_size: 3 pad: 1 group: 2"),
    "no bias": ((2, 16, 8, 8), "num_output: 16 kernel_size: 3 pad: 1 bias_term: false"),
    "rows that lie apart": ((1, 128, 6, 6), "num_output: 128 kernel_size: 3 pad: 1"),
    "5x5": ((2, 16, 9, 7), "num_output: 24 kernel_size: 5 pad: 2"),
    "5x5, LeNet's second": ((2, 20, 12, 12), "num_output: 50 kernel_size: 5"),
    "5x5, groups": ((2, 24, 7, 7), "num_output: 40 kernel_size: 5 pad: 2 group: 2"),
    "5x5, channels beyond a piece": ((1, 70, 5, 5), "num_output: 66 kernel_size: 5 pad: 2"),
    "many blocks": ((3, 8, 40, 40), "num_output: 8 kernel_size: 3 pad: 1"),
}


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is possible it is done."""
    monkeypatch.setattr(Task, "pays", lambda task, held=False: True)
    monkeypatch.setattr(Task, "gradient_pays", True)


def points_of(form: Form) -> list[str]:
    """The variants of all parts."""
    assert isinstance(form, FiltersForm)
    return [part.variant for part in (form.forward_part, *form.backward_parts) if part]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_convolution(geometry: str) -> None:
    shape, options = GEOMETRIES[geometry]
    form = FormCase(make_convolution, build(conv(options), shape), NHWC).check()
    assert points_of(form) == [f"winograd {'2x2' if 'kernel_size: 5' in options else '4x4'}"] * 3


@pytest.mark.parametrize("geometry", ["cells over at the edges", "groups", "5x5", "many blocks"])
def test_any_number_of_threads(geometry: str) -> None:
    shape, options = GEOMETRIES[geometry]
    with team_of(3):
        FormCase(make_convolution, build(conv(options), shape), NHWC).check()


def dealings_of(form: Form) -> list[Dealing]:
    """Of all parts: forward, the filters' gradient, the bottom's."""
    assert isinstance(form, FiltersForm)
    assert isinstance(form.forward_part, PointsForward)
    filters, data = form.backward_parts
    assert isinstance(filters, PointsFilters)
    assert isinstance(data, PointsData)
    return [form.forward_part.correlation.dealing, filters.gradient.dealing, data.correlation.dealing]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most four tiles each."""
    monkeypatch.setattr(winograd_task, "LEAST_TILES", 1)
    monkeypatch.setattr(winograd_task, "MOST_TILES", 4)
    monkeypatch.setattr(Task, "balanced", 1)


MANY_TILES = {
    "3x3": ((2, 16, 17, 22), "num_output: 24 kernel_size: 3 pad: 1"),
    "5x5": ((3, 20, 13, 12), "num_output: 50 kernel_size: 5"),
    "groups": ((2, 24, 15, 18), "num_output: 40 kernel_size: 3 pad: 1 group: 2"),
    "no bias": ((3, 8, 21, 9), "num_output: 8 kernel_size: 3 bias_term: false"),
    "channels beyond a piece": ((1, 70, 18, 19), "num_output: 130 kernel_size: 3 pad: 1"),
    "rows that lie apart": ((1, 128, 18, 19), "num_output: 128 kernel_size: 3 pad: 1"),
}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("geometry", MANY_TILES)
def test_blocks_are_dealt_to_threads(geometry: str, fresh: bool, threads: int) -> None:
    shape, options = MANY_TILES[geometry]
    with team_of(threads):
        form = FormCase(make_convolution, build(conv(options), shape), NHWC, fresh=fresh).check()
    assert [dealing.shares for dealing in dealings_of(form)] == [threads] * 3


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("slope", [None, 0.25])
def test_a_residual_is_added_where_blocks_are_dealt(slope: float | None) -> None:
    shape, options = MANY_TILES["3x3"]
    top = build(conv(options), shape).nodes[-1].outputs[0].shape
    layers = 'layer { name: "e" type: "Eltwise" bottom: "y" bottom: "x1" top: "z" }'
    if slope is not None:
        layers += relu("z", f"negative_slope: {slope}").replace('"y"', '"z"')
    with team_of(2):
        graph = build(conv(options, layers), shape, top)
        form = FormCase(make_convolution, graph, NHWC, backward=False).check()
    assert isinstance(form, FiltersForm)
    assert isinstance(form.forward_part, PointsForward)
    assert form.forward_part.correlation.dealing.shares == 2


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("threads", [2, 3])
def test_the_same_threads_give_the_same_bits(threads: int) -> None:
    """Whoever comes first."""
    shape, options = MANY_TILES["3x3"]
    case = FormCase(make_convolution, build(conv(options), shape), NHWC)
    random = np.random.default_rng(5)
    results = []
    with team_of(threads):
        form = make_convolution(case.nodes, Mode(layout=NHWC), case.engine)
        assert isinstance(form, FiltersForm)
        arrays = [random.standard_normal(v[0].shape).astype(np.float32) for v in (form.inputs, form.outputs)]
        bottom, top = (aligned(pack(values, NHWC, case.block)) for values in arrays)
        for _ in range(5):
            gradients = [aligned(np.zeros_like(array)) for array in case.params]
            b = Buffers([bottom], [top], case.params, top_grads=[top], bottom_grads=[np.empty_like(bottom)])
            b.param_grads = list(gradients)
            b.workspace = allocate(form.backward_workspace)
            run = form.backward(b)
            run()
            results.append([b.bottom_grads[0], *gradients])
    for found in results[1:]:
        for here, there in zip(found, results[0], strict=True):
            np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize("geometry", ["groups", "5x5", "no bias"])
def test_fresh_gradients_are_written(geometry: str) -> None:
    shape, options = GEOMETRIES[geometry]
    FormCase(make_convolution, build(conv(options), shape), NHWC, fresh=True).check()


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_only_what_learns_gets_a_gradient(wanted: tuple[bool, bool]) -> None:
    graph = build(conv("num_output: 16 kernel_size: 3 pad: 1"), (2, 16, 8, 8))
    graph.nodes[1].param_needs_grad = list(wanted)
    FormCase(make_convolution, graph, NHWC).check()


@pytest.mark.parametrize("top", ["y", "z"])
@pytest.mark.parametrize("slope", [0, 0.25])
def test_relu_rides_along(top: str, slope: float) -> None:
    layers = conv("num_output: 12 kernel_size: 3 pad: 1", relu(top, f"negative_slope: {slope}"))
    form = FormCase(make_convolution, build(layers, (2, 8, 7, 6)), NHWC).check()
    assert len(points_of(form)) == 3


@pytest.mark.parametrize("followers", [("Scale",), ("ReLU",), ("Scale", "ReLU")])
def test_normalisation_in_training(followers: tuple[str, ...]) -> None:
    graph = build(chain(followers, "bias_term: false"), (4, 8, 6, 5))
    FormCase(make_convolution_batch_norm, graph, NHWC, low=0.1).check()


@pytest.mark.parametrize("followers", FOLLOWERS)
@pytest.mark.parametrize("holds", [False, True])
def test_normalisation_folds_into_inference(followers: tuple[str, ...], holds: bool) -> None:
    graph = build(chain(followers, "bias_term: true"), *shapes(followers, 1), phase=pb.TEST)
    case = FormCase(make_convolution_batch_norm, graph, NHWC, low=0.1, backward=False, holds=holds)
    form = case.check()
    assert isinstance(form, FoldedConvolutionForm if holds else ScaledConvolutionForm)
    assert points_of(form) == ["winograd 4x4"]


@pytest.mark.parametrize("bottoms", [("y", "x1"), ("x1", "y")])
@pytest.mark.parametrize("slope", [None, 0, 0.25])
@pytest.mark.parametrize("geometry", ["cells over at the edges", "groups", "5x5", "channels beyond a piece"])
def test_residual_is_added_on_the_way_out(
    bottoms: tuple[str, str], slope: float | None, geometry: str
) -> None:
    shape, options = GEOMETRIES[geometry]
    added = f'layer {{ name: "e" type: "Eltwise" bottom: "{bottoms[0]}" bottom: "{bottoms[1]}" top: "z" }}'
    following = "" if slope is None else relu("z", f"negative_slope: {slope}").replace('"y"', '"z"')
    top = build(conv(options), shape).nodes[-1].outputs[0].shape
    graph = build(conv(options, added + following), shape, top)
    form = FormCase(make_convolution, graph, NHWC, backward=False).check()
    assert points_of(form) == ["winograd 4x4" if "kernel_size: 3" in options else "winograd 2x2"]


def test_a_sum_that_is_more_than_a_residual_stays_a_layer() -> None:
    added = 'layer { name: "e" type: "Eltwise" bottom: "y" bottom: "x1" top: "z" eltwise_param { %s } }'
    for options in ("coeff: 1 coeff: -1", "operation: MAX"):
        layers = conv("num_output: 16 kernel_size: 3 pad: 1", added % options)
        graph = build(layers, (1, 8, 6, 5), (1, 16, 6, 5))
        assert FormCase(make_convolution, graph, NHWC, backward=False).form is None


@pytest.mark.parametrize("geometry", ["groups", "5x5", "channels beyond a piece"])
def test_held_weights_are_taken_to_points_once(geometry: str) -> None:
    shape, options = GEOMETRIES[geometry]
    graph = build(conv(options), shape, phase=pb.TEST)
    case = FormCase(make_convolution, graph, NHWC, backward=False)
    held = make_convolution(case.nodes, Mode(backward=False, holds=True, layout=NHWC), case.engine)
    assert isinstance(held, FiltersForm)
    bottom, top = (case.draw(values[0].shape) for values in (held.inputs, held.outputs))
    arrays = [aligned(pack(values, NHWC, case.block)) for values in (bottom, top)]
    b = Buffers(arrays[:1], arrays[1:], [aligned(array) for array in case.params])
    b.workspace = allocate(held.forward_workspace)
    prepare = held.prepare(b)
    assert prepare is not None
    prepare()
    b.params[0][:] = np.nan  # nobody reads them any more
    held.forward(b)()
    plain = Buffers([bottom], [np.empty_like(top)], [array.copy() for array in case.params])
    plain.saved = allocate(case.nodes[0].layer.saved)
    case.nodes[0].layer.forward(np, plain)
    error = np.abs(arrays[1] - plain.tops[0]).max() / np.abs(plain.tops[0]).max()
    assert error <= 1e-5


def test_rounding_stays_small_with_many_channels() -> None:
    """Next to sums in double, errors of 512 channels stay below a third of what forms are allowed."""
    random = np.random.default_rng(3)
    options = "num_output: 32 kernel_size: 3 pad: 1"
    case = FormCase(make_convolution, build(conv(options), (1, 512, 12, 12)), NHWC, backward=False)
    assert case.form is not None
    bottom = np.maximum(random.standard_normal((1, 512, 12, 12)), 0).astype(np.float32)
    weight = random.standard_normal((32, 512, 3, 3)).astype(np.float32)
    b = Buffers(
        [aligned(pack(bottom, NHWC, case.block))],
        [aligned(pack(np.zeros((1, 32, 12, 12), np.float32), NHWC, case.block))],
        [aligned(weight), aligned(np.zeros(32, np.float32))],
    )
    b.workspace = allocate(case.form.forward_workspace)
    run = case.form.forward(b)
    assert run is not None
    run()
    padded = np.pad(bottom.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    exact = sum(
        np.einsum(
            "nchw,kc->nkhw", padded[:, :, i : i + 12, j : j + 12], weight[:, :, i, j].astype(np.float64)
        )
        for i in range(3)
        for j in range(3)
    )
    assert np.abs(b.tops[0] - exact).max() <= 3.3e-6 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("options", "layout"),
    [
        ("num_output: 16 kernel_size: 3 stride: 2", NHWC),
        ("num_output: 16 kernel_size: 3 dilation: 2", NHWC),
        ("num_output: 16 kernel_h: 3 kernel_w: 5", NHWC),
        ("num_output: 16 kernel_size: 4", NHWC),
        ("num_output: 16 kernel_size: 3", BLOCKED),
    ],
)
def test_the_rest_is_left_to_onednn(options: str, layout: str) -> None:
    form = FormCase(make_convolution, build(conv(options), (2, 16, 9, 9)), layout).check()
    assert points_of(form) == []


def test_pointwise_filters_learn_by_products_of_matrices() -> None:
    for fresh in (False, True):
        graph = build(conv("num_output: 40 kernel_size: 1"), (3, 24, 9, 8))
        form = FormCase(make_convolution, graph, NHWC, fresh=fresh).check()
        assert points_of(form) == ["gemm"]


@pytest.mark.parametrize(("inputs", "outputs"), [(512, 256), (256, 512), (512, 512)])
def test_pointwise_filters_of_many_channels_and_pixels(inputs: int, outputs: int) -> None:
    """Rows that would compete for places in the caches are copied apart."""
    graph = build(conv(f"num_output: {outputs} kernel_size: 1"), (1, inputs, 33, 32))
    form = FormCase(make_convolution, graph, NHWC).check()
    apart = {name for name in form.backward_workspace if name.endswith(" apart")}
    assert apart == {
        f"{name} apart" for name, size in (("bottom", inputs), ("top gradient", outputs)) if size == 512
    }


def test_without_numba_onednn_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    loops.compiled.cache_clear()
    graph = build(conv("num_output: 16 kernel_size: 3 pad: 1"), (2, 16, 8, 8))
    assert points_of(FormCase(make_convolution, graph, NHWC).check()) == []


def test_every_tile_is_in_one_block() -> None:
    assert list(blocks(10, 4)) == [(0, 4), (4, 4), (8, 2)]
    task = Task((4, 56, 56), (4, 56, 56), (1, 1), 3, 1, 256, 256, 1)
    for threads in (1, 2, 3, 16):
        for dealing in (task.dealing(threads), task.gradient_dealing(threads)):
            assert sum(count for _, count in blocks(task.tiles, dealing.block)) == task.tiles == 4 * 14 * 14
    assert data_task(data_task(task)) == task


def task_of(images: int, size: int, channels: int) -> Task:
    image = (images, size, size)
    return Task(image, image, (1, 1), 3, 1, channels, channels, 1)


@pytest.mark.parametrize(
    ("threads", "task", "shares"),
    [
        (2, task_of(8, 56, 64), (2, 2)),
        (3, task_of(8, 56, 64), (3, 3)),
        (1, task_of(8, 56, 64), (1, 1)),
        (2, task_of(1, 14, 64), (1, 1)),  # too few tiles
        (2, task_of(8, 56, 256), (2, 1)),  # the filters have many points: copies of them are large,
        (2, task_of(8, 56, 512), (1, 1)),  # and for these each thread would read too much
        (16, task_of(64, 56, 128), (1, 1)),  # so have the blocks of all threads
        (8, task_of(64, 56, 128), (8, 1)),  # so have all threads' copies of the gradient's points
    ],
)
def test_blocks_are_dealt_where_there_are_many_that_are_small(
    threads: int, task: Task, shares: tuple[int, int]
) -> None:
    dealings = task.dealing(threads), task.gradient_dealing(threads)
    assert tuple(dealing.shares for dealing in dealings) == shares
    for dealing in dealings:
        parts = list(blocks(task.tiles, dealing.block))
        assert dealing.shares == 1 or len(parts) >= 2 * threads
