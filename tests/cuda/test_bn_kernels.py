"""Batch normalisation on the device agrees with its layers, alone and with the Scale and ReLU that follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.layers import bn, bn_form
from netc.backends.cuda.layers.bn import Running, cells_of
from netc.backends.form import NHWC, PLAIN, Mode
from netc.proto import netc_pb2 as pb
from tests.cuda.arrays import get, put, room
from tests.cuda.one_chain import OneChain, chain_of, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]


def layer(kind: str, bottom: str, top: str, options: str = "") -> str:
    return f'layer {{ name: "{kind}" type: "{kind}" bottom: "{bottom}" top: "{top}" {options} }}\n'


def norm(top: str = "y", options: str = "") -> str:
    return layer("BatchNorm", "x0", top, f"batch_norm_param {{ {options} }}")


def scale(bottom: str, top: str, options: str = "bias_term: true") -> str:
    return layer("Scale", bottom, top, f"scale_param {{ {options} }}")


def relu(bottom: str, top: str, slope: float = 0) -> str:
    return layer("ReLU", bottom, top, f"relu_param {{ negative_slope: {slope} }}")


def added(bottom: str, top: str, options: str = "") -> str:
    return f'layer {{ name: "sum" type: "Eltwise" bottom: "x1" bottom: "{bottom}" top: "{top}" {options} }}\n'


def bn_layer(top: str, options: str = "") -> str:
    return layer("BN", "x0", top, f"bn_param {{ {options} }}")


# As residual nets write them, then wholly in place, then every layer with a top of its own.
CHAINS = {
    "alone": norm(),
    "alone in place": norm("x0"),
    "scaled": norm() + scale("y", "y"),
    "scaled without bias": norm() + scale("y", "z", ""),
    "relu": norm() + relu("y", "y"),
    "scaled relu": norm() + scale("y", "y") + relu("y", "y"),
    "scaled relu in place": norm("x0") + scale("x0", "x0") + relu("x0", "x0", 0.1),
    "scaled relu apart": norm("x0") + scale("x0", "s") + relu("s", "t", 0.1),
    "own factor and bias": norm("y", "scale_bias: true") + relu("y", "y"),
    "own factor in place": norm("x0", "scale_bias: true bias_term: false"),
    "constants": norm("y", "use_global_stats: true") + scale("y", "y") + relu("y", "y"),
    "constants alone": norm("y", "use_global_stats: true"),
    "PSPNet": bn_layer("y") + relu("y", "y"),
    "PSPNet frozen": bn_layer("x0", "frozen: true") + relu("x0", "x0"),
    "PSPNet in place": bn_layer("x0", "momentum: 0.7 eps: 0.01"),
    "SegNet": bn_layer("y", "bn_mode: LEARN"),
}
RESIDUAL_CHAINS = {
    "residual relu": norm() + scale("y", "y") + added("y", "z") + relu("z", "z"),
    "residual relu apart": norm("x0") + scale("x0", "x0") + added("x0", "z") + relu("z", "t", 0.1),
    "residual": norm() + scale("y", "y") + added("y", "z"),
    "constant residual relu": norm("y", "use_global_stats: true")
    + scale("y", "y")
    + added("y", "z")
    + relu("z", "z"),
}
# Images whose elements are packs of four; odd ones; few cells (a lane to each channel); one cell.
SHAPES = {"packs": (3, 4, 6, 8), "odd": (3, 5, 7, 7), "few": (5, 35, 2, 3), "one": (6, 3)}


def values(*shape: int) -> Any:
    return 2 * drawn(*shape) + 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chain", CHAINS)
def test_chains_in_training(fast: EmulatedDevice, chain: str, shape: str) -> None:
    one = OneChain(fast, bn_form.FORMS, CHAINS[chain], values(*SHAPES[shape]))
    one.check(rtol=1e-5, atol=2e-5, passes=2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chain", RESIDUAL_CHAINS)
def test_residual_chains(device: EmulatedDevice, chain: str, shape: str) -> None:
    x, residual = values(*SHAPES[shape]), drawn(*SHAPES[shape], seed=9)
    OneChain(device, bn_form.FORMS, RESIDUAL_CHAINS[chain], x, residual).check(rtol=1e-5, atol=2e-5, passes=2)


@pytest.mark.parametrize("chain", CHAINS)
def test_chains_in_test(fast: EmulatedDevice, chain: str) -> None:
    one = OneChain(fast, bn_form.FORMS, CHAINS[chain], values(*SHAPES["odd"]), phase=pb.TEST)
    one.check(rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("chain", [*CHAINS, *RESIDUAL_CHAINS])
def test_chains_with_the_channels_of_a_cell_side_by_side(fast: EmulatedDevice, chain: str) -> None:
    shape = SHAPES["odd"] if chain in CHAINS else SHAPES["packs"]
    bottoms = [values(*shape), drawn(*shape, seed=9)][: 1 + (chain in RESIDUAL_CHAINS)]
    one = OneChain(fast, bn_form.FORMS, {**CHAINS, **RESIDUAL_CHAINS}[chain], *bottoms, layout=NHWC)
    assert one.form.top_layouts == [NHWC]
    one.check(rtol=1e-5, atol=2e-5, passes=2)


# One line of lanes and less, several tiles of them, several shares of the rows.
@pytest.mark.parametrize(("channels", "cells"), [
    (1, 600), (3, 260), (4, 1030), (5, 9), (31, 130), (33, 33), (64, 129), (128, 40), (132, 17), (260, 6),
])  # fmt: skip
def test_channels_side_by_side_in_check_mode(checked: EmulatedDevice, channels: int, cells: int) -> None:
    checked.order, checked.seed = "random", 5
    x, residual = values(2, channels, 1, cells), drawn(2, channels, 1, cells, seed=9)
    chain = RESIDUAL_CHAINS["residual relu"]
    one = OneChain(checked, bn_form.FORMS, chain, x, residual, layout=NHWC)
    one.check(rtol=2e-5, atol=3e-5)
    OneChain(checked, bn_form.FORMS, CHAINS["scaled relu in place"], x, layout=NHWC).check(
        rtol=2e-5, atol=3e-5
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_a_chain_in_check_mode(checked: EmulatedDevice, shape: str) -> None:
    checked.order, checked.seed = "random", 5
    for chain in ("scaled relu", "scaled relu in place"):
        one = OneChain(checked, bn_form.FORMS, CHAINS[chain], values(*SHAPES[shape]))
        one.check(rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("images", "channels", "side"), [(3, 2, 64), (5, 1, 61), (9000, 3, 1), (1, 2049, 4)])
def test_several_parts_of_a_channel(fast: EmulatedDevice, images: int, channels: int, side: int) -> None:
    x = values(images, channels, side, side)
    one = OneChain(fast, bn_form.FORMS, CHAINS["scaled relu"], x)
    parts = one.form.forward_workspace["partial"].shape[1]
    assert (parts > 1) is (channels < 8)
    one.check(rtol=3e-5, atol=3e-5 * np.sqrt(images * side * side))


@pytest.mark.parametrize("shape", [(3, 2, 10), (30, 2, 1)])
def test_the_last_parts_of_a_channel_may_be_empty(checked: EmulatedDevice, shape: tuple[int, ...]) -> None:
    checked.order, checked.seed = "random", 1
    x = values(*shape)
    for parts in (1, 7, 30):
        cells = bn.Cells(*shape, parts)
        partial, channels = room(checked, 2 * parts * 3), room(checked, 8)
        bn.reduce(checked, "Moments", cells, put(checked, x), partial)()
        bn.finish(checked, cells, partial, 0.0, None, None, None, channels)()
        flat = x.astype(np.float64).transpose(1, 0, 2).reshape(2, -1)
        mean, inverse, factor, bias = get(checked, channels, (2, 4)).T
        np.testing.assert_allclose(mean, flat.mean(axis=1), rtol=1e-6)
        np.testing.assert_allclose(inverse, 1 / flat.std(axis=1), rtol=1e-6)
        np.testing.assert_array_equal(factor, inverse)
        np.testing.assert_array_equal(bias, [0, 0])


@pytest.mark.parametrize("layout", [PLAIN, NHWC])
def test_the_variance_of_values_far_from_zero(fast: EmulatedDevice, layout: str) -> None:
    x = (drawn(8, 2, 32, 33) + np.array([1e4, -300]).reshape(1, 2, 1, 1)).astype(np.float32)
    x[0, 0, 0, 0] = 0  # neither may the first value decide how exact the others are
    cells = cells_of(8, 2, 32 * 33, 132) if layout == PLAIN else cells_of(8 * 32 * 33, 2, 1, 132)
    partial, channels = room(fast, 2 * cells.parts * 3), room(fast, 8)
    memory = put(fast, x if layout == PLAIN else np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    bn.reduce(fast, "Moments", cells, memory, partial)()
    bn.finish(fast, cells, partial, 0.0, None, None, None, channels)()
    exact = x.astype(np.float64)
    np.testing.assert_allclose(get(fast, channels, (2, 4))[:, 0], exact.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(get(fast, channels, (2, 4))[:, 1], 1 / exact.std(axis=(0, 2, 3)), rtol=1e-5)


def test_running_statistics_without_weight_count_as_none(device: EmulatedDevice) -> None:
    mean, variance = (put(device, np.array([4, 8], np.float32)) for _ in range(2))
    for weight, share in ((0, 0), (4, 0.25)):
        running = Running(mean, variance, put(device, np.array([weight], np.float32)), 0, 0, 0)
        channels = room(device, 8)
        bn.finish(device, cells_of(1, 2, 9, 1), None, 1.0, running, None, None, channels)()
        expected = [[n * share, 1 / np.sqrt(n * share + 1), 1 / np.sqrt(n * share + 1), 0] for n in (4, 8)]
        np.testing.assert_allclose(get(device, channels, (2, 4)), expected, rtol=1e-6)


@pytest.mark.parametrize(("images", "channels", "number"), [(2, 3, 16), (33, 4, 1)])
def test_memory_off_sixteen_bytes(fast: EmulatedDevice, images: int, channels: int, number: int) -> None:
    x = values(images, channels, number)
    x_memory, y, cells = (
        put(fast, x, skew=4),
        room(fast, x.size, skew=4),
        cells_of(images, channels, number, 1),
    )
    partial, numbers = room(fast, channels * cells.parts * 3), room(fast, 4 * channels)
    bn.reduce(fast, "Moments", cells, x_memory, partial)()
    bn.finish(fast, cells, partial, 1e-5, None, None, None, numbers)()
    bn.apply(fast, cells, x_memory, numbers, 1, y)()
    centred = x - x.mean(axis=(0, 2), keepdims=True)
    wanted = centred / np.sqrt(x.var(axis=(0, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(get(fast, y, x.shape), wanted, rtol=1e-5, atol=1e-5)


def test_x_is_kept_only_where_it_is_needed_and_overwritten(fast: EmulatedDevice) -> None:
    def saved(chain: str, phase: int = pb.TRAIN, mode: Mode | None = None) -> set[str]:
        form = OneChain(fast, bn_form.FORMS, CHAINS[chain], values(2, 3), phase=phase, mode=mode).form
        return set(form.saved) | {f"bottom {i}" for i in form.backward_bottoms or ()}

    assert saved("scaled relu") == {"channels", "bottom 0"}
    assert saved("scaled relu in place") == {"channels", "x"}
    assert saved("scaled relu in place", mode=Mode(backward=False)) == {"channels"}
    assert saved("alone in place", phase=pb.TEST) == {"channels"}
    assert saved("constants alone") == {"channels"}


@pytest.mark.parametrize(
    "text",
    [
        norm() + scale("y", "y", "axis: 0"),
        norm() + scale("y", "y", "axis: 1 num_axes: 2"),
        norm("y", "scale_bias: true") + scale("y", "y"),
        norm() + scale("y", "y") + relu("y", "y", -0.5),
        bn_layer("y", "bn_mode: INFERENCE"),
        norm() + scale("y", "y") + added("y", "z", "eltwise_param { operation: PROD }"),
        norm() + scale("y", "y") + added("y", "z", "eltwise_param { coeff: 1 coeff: -1 }"),
        norm() + scale("y", "y") + added("y", "x1") + relu("x1", "x1"),
        'layer { name: "bn" type: "BN" bottom: "x0" top: "y" top: "m" bn_param { bn_mode: LEARN } }',
    ],
)
def test_what_has_no_form(fast: EmulatedDevice, text: str) -> None:
    nodes = chain_of(text, (3, 3, 4, 4), (3, 3, 4, 4))
    assert bn_form.make_batch_norm(nodes, Mode(), fast) is None


@pytest.mark.parametrize(
    ("later", "fits"),
    [
        (layer("Dropout", "y", "y"), True),
        (layer("Flatten", "y", "z"), True),
        (layer("Power", "y", "z"), True),
        (layer("Power", "y", "y"), False),
        (layer("Dropout", "y", "y") + layer("Power", "y", "y"), False),
        (layer("Flatten", "y", "z") + layer("Power", "z", "z"), False),
    ],
)
def test_a_relu_whose_side_a_later_layer_changes_in_place_is_left_alone(
    fast: EmulatedDevice, later: str, fits: bool
) -> None:
    nodes = chain_of(norm() + relu("y", "y") + later, (3, 3, 4, 4))[:2]
    assert (bn_form.make_batch_norm(nodes, Mode(), fast) is not None) is fits


def test_a_replayed_graph_moves_the_running_statistics_on(fast: EmulatedDevice) -> None:
    one = OneChain(fast, bn_form.FORMS, CHAINS["scaled relu"], values(*SHAPES["odd"]))
    one.forward()
    with fast.capture() as graphs:
        one.run()
    graphs[0].replay()
    for _ in range(2):
        wanted = one.expected_forward()[0]
    np.testing.assert_allclose(one.values(one.buffers.tops[0]), wanted, rtol=1e-5, atol=2e-5)
    for got, expected in zip(one.buffers.params, one.expected_params, strict=True):
        np.testing.assert_allclose(one.values(got), expected, rtol=1e-5)
