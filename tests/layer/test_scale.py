"""Scale and Bias: which axes the operand covers, learned or given, in place, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.text import parse_text
from tests.layer.one_layer import OneLayer, check_slopes, make_layer, run

RNG = np.random.default_rng(5)
SHAPE = (2, 3, 4, 2)


def layer_text(kind: str, options: str) -> str:
    return f'type: "{kind}" {kind.lower()}_param {{ {options} }}'


@pytest.mark.parametrize("kind", ["Scale", "Bias"])
@pytest.mark.parametrize(
    ("options", "operand"),
    [
        ("", (3,)),
        ("axis: 0", (2,)),
        ("axis: -1", (2,)),
        ("axis: 1 num_axes: 2", (3, 4)),
        ("axis: 1 num_axes: -1", (3, 4, 2)),
        ("axis: 0 num_axes: -1", SHAPE),
        ("num_axes: 0", ()),
    ],
)
def test_operand_covers_axes(kind: str, options: str, operand: tuple[int, ...]) -> None:
    layer = make_layer(layer_text(kind, options))
    assert layer.infer([SHAPE]) == [SHAPE]
    assert [param.shape for param in layer.params] == [operand]
    x, value = RNG.standard_normal(SHAPE), RNG.standard_normal(operand)
    first = layer.canonical_axis(layer.options.axis, 4)
    spread = value.reshape(*[1] * first, *operand, *[1] * (4 - first - len(operand))) if operand else value
    expected = x * spread if kind == "Scale" else x + spread
    np.testing.assert_allclose(
        run(layer_text(kind, options), x, params=[value], dtype=np.float64)[0], expected
    )
    check_slopes(layer_text(kind, options), x, params=[value])


@pytest.mark.parametrize("kind", ["Scale", "Bias"])
@pytest.mark.parametrize(
    ("options", "operand"),
    [("", (3,)), ("axis: 0", (2, 3)), ("axis: 2", (4, 2)), ("axis: 3", ()), ("axis: 0", SHAPE)],
)
def test_operand_from_a_second_bottom(kind: str, options: str, operand: tuple[int, ...]) -> None:
    check_slopes(layer_text(kind, options), RNG.standard_normal(SHAPE), RNG.standard_normal(operand))


def test_scale_starts_as_identity() -> None:
    layer = make_layer(layer_text("Scale", "bias_term: true"))
    layer.infer([SHAPE])
    scale, bias = layer.params
    assert scale.filler is not None
    assert (scale.filler.type, scale.filler.value, bias.filler) == ("constant", 1, None)


def test_scale_with_bias_by_hand() -> None:
    y = run(layer_text("Scale", "bias_term: true"), [[1, 2], [3, 4]], params=[[10, 100], [5, 6]])[0]
    np.testing.assert_array_equal(y, [[15, 206], [35, 406]])


def test_scale_by_a_second_bottom_has_its_bias_as_parameter_0() -> None:
    text = layer_text("Scale", "bias_term: true axis: 0")
    layer = make_layer(text, bottoms=2)
    layer.infer([(2, 3), (2,)])
    assert [param.shape for param in layer.params] == [(2,)]
    y = run(text, [[1, 2, 3], [4, 5, 6]], [10, 100], params=[[7, 8]])[0]
    np.testing.assert_array_equal(y, [[17, 27, 37], [408, 508, 608]])
    check_slopes(text, RNG.standard_normal((2, 3)), RNG.standard_normal(2), params=[RNG.standard_normal(2)])


@pytest.mark.parametrize(("kind", "options"), [("Scale", "bias_term: true"), ("Scale", ""), ("Bias", "")])
def test_in_place_is_the_same(kind: str, options: str) -> None:
    x, dy = RNG.standard_normal(SHAPE), RNG.standard_normal(SHAPE)
    params = [RNG.standard_normal(3) for _ in range(1 + bool(options))]
    apart = OneLayer(layer_text(kind, options), x, params=params, dtype=np.float64)
    inside = OneLayer(layer_text(kind, options) + ' bottom: "x" top: "x"', x, params=params, dtype=np.float64)
    np.testing.assert_array_equal(apart.forward(), inside.forward())
    inside.buffers.tops[0] *= 3  # a layer behind it that also writes in place
    np.testing.assert_array_equal(apart.backward(dy), inside.backward(dy))
    for found, expected in zip(inside.param_grads, apart.param_grads, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["Scale", "Bias"])
def test_only_wanted_gradients_are_computed(kind: str) -> None:
    layer = OneLayer(layer_text(kind, ""), np.ones((2, 3)), np.ones(3))
    layer.forward()
    assert layer.backward(np.ones((2, 3)), wanted=[False, False]) == [None, None]
    dx, doperand = layer.backward(np.ones((2, 3)), wanted=[False, True])
    assert dx is None
    np.testing.assert_array_equal(doperand, [2, 2, 2])


@pytest.mark.parametrize("kind", ["Scale", "Bias"])
@pytest.mark.parametrize(
    ("options", "shapes", "said"),
    [
        ("axis: 4", [SHAPE], "axis 4 does not exist"),
        ("axis: 3 num_axes: 2", [SHAPE], "bottom 0 has 1 axes from axis 3 on"),
        ("num_axes: -2", [SHAPE], "bottom 0 has 3 axes from axis 1 on"),
        ("", [SHAPE, (4,)], "that of bottom 0 from axis 1 on"),
        ("axis: 3", [SHAPE, (2, 2)], "that of bottom 0 from axis 3 on"),
    ],
)
def test_refuses(kind: str, options: str, shapes: list[tuple[int, ...]], said: str) -> None:
    with pytest.raises(NetcError, match=said):
        make_layer(layer_text(kind, options), bottoms=len(shapes)).infer(shapes)


def test_an_unwanted_gradient_holds_what_caffe_leaves_there() -> None:
    text = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "s" type: "Scale" bottom: "x" top: "y" }
    layer { name: "sum" type: "Reduction" bottom: "y" top: "sum" loss_weight: 2 reduction_param { coeff: 5 } }
    """
    x = RNG.standard_normal((2, 3)).astype(np.float32)
    for force, expected in ("", 10 * x), ("force_backward: true", np.full((2, 3), 10)):
        net = Net(parse_text(force + text, pb.NetParameter, "net.prototxt").message, pb.TRAIN)
        net.blobs["x"].data[...] = x
        net.forward()
        net.backward()
        np.testing.assert_allclose(net.blobs["x"].diff, expected, rtol=1e-6)
        np.testing.assert_allclose(net.params["s"][0].diff, 10 * x.sum(axis=0), rtol=1e-5)
