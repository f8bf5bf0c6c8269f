"""InnerProduct: matrices by hand, gradients in blocks, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layer import dense
from tests.layer.one_layer import OneLayer, check_slopes, make_layer, run

RNG = np.random.default_rng(3)


def inner(options: str) -> str:
    return f'type: "InnerProduct" inner_product_param {{ {options} }}'


@pytest.mark.parametrize(
    ("options", "output", "weight"),
    [
        ("num_output: 5", (2, 5), (5, 60)),
        ("num_output: 5 axis: 2", (2, 3, 5), (5, 20)),
        ("num_output: 5 axis: -1", (2, 3, 5, 5), (5, 4)),
        ("num_output: 5 axis: 0", (5,), (5, 120)),
        ("num_output: 5 transpose: true", (2, 5), (60, 5)),
    ],
)
def test_axes_from_axis_on_are_the_columns(
    options: str, output: tuple[int, ...], weight: tuple[int, ...]
) -> None:
    layer = make_layer(inner(options))
    assert layer.infer([(2, 3, 5, 4)]) == [output]
    assert [param.shape for param in layer.params] == [weight, (5,)]


@pytest.mark.parametrize(
    ("options", "weight"), [("", [[1, 2], [3, 4]]), ("transpose: true", [[1, 3], [2, 4]])]
)
def test_product_by_hand(options: str, weight: list[list[int]]) -> None:
    y = run(inner(f"num_output: 2 {options}"), [[1, 10], [2, 20]], params=[weight, [100, 200]])[0]
    np.testing.assert_array_equal(y, [[121, 243], [142, 286]])


@pytest.mark.parametrize("block_bytes", [1, dense.BLOCK_BYTES], ids=["row by row", "together"])
@pytest.mark.parametrize("options", ["", "transpose: true", "bias_term: false", "axis: 0"])
def test_slopes(options: str, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "BLOCK_BYTES", block_bytes)
    text = inner(f"num_output: 3 {options}")
    x = RNG.standard_normal((2, 3, 2))
    layer = make_layer(text)
    layer.infer([x.shape])
    check_slopes(text, x, params=[RNG.standard_normal(param.shape) for param in layer.params])


def test_parameter_gradients_add_up() -> None:
    layer = OneLayer(inner("num_output: 1"), [[1, 2]], params=[[[3, 4]], [0]])
    layer.forward()
    for times in (1, 2):
        layer.backward([[10]])
        np.testing.assert_array_equal(layer.param_grads[0], [[10 * times, 20 * times]])
        np.testing.assert_array_equal(layer.param_grads[1], [10 * times])


def test_only_wanted_gradients_are_computed() -> None:
    layer = OneLayer(inner("num_output: 1"), [[1, 2]], params=[[[3, 4]], [0]])
    layer.forward()
    layer.buffers.param_grads = [None, None]
    assert layer.backward([[10]], wanted=[False]) == [None]
    np.testing.assert_array_equal(layer.backward([[10]])[0], [[30, 40]])


def test_no_rows_give_no_outputs() -> None:
    layer = OneLayer(inner("num_output: 3"), np.ones((0, 2)), params=[np.ones((3, 2)), np.ones(3)])
    (top,) = layer.forward()
    assert top.shape == (0, 3)
    layer.backward(top)
    assert not np.any(layer.param_grads[0])


@pytest.mark.parametrize(
    ("options", "said"),
    [("", "num_output must be at least 1"), ("num_output: 2 axis: 3", "axis 3 does not exist")],
)
def test_refuses(options: str, said: str) -> None:
    with pytest.raises(NetcError, match=said):
        make_layer(inner(options)).infer([(2, 3, 5)])
